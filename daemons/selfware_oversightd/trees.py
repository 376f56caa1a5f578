"""Which saved trees are our own: only what we captured ourselves is ever put back into a workspace.

Whoever can write checkpoints, the agent above all, could otherwise write any file into any workspace, by having a
made-up one restored. A tree is known by the hash of its stream, which covers every name and every byte in it, together
with the workspace it was taken from. All functions work in the caller's transaction.
"""

from __future__ import annotations

import sqlite3

MOST_ROWS = 20_000  # half a year of one workspace every fifteen minutes

SCHEMA = """
CREATE TABLE captures (
    number INTEGER PRIMARY KEY, stream_hash TEXT NOT NULL, workspace TEXT NOT NULL, session_id TEXT NOT NULL,
    checkpoint_id TEXT NOT NULL, unix_nanos INTEGER NOT NULL
) STRICT;
CREATE UNIQUE INDEX captures_tree ON captures (stream_hash, workspace);
"""


def record(connection: sqlite3.Connection, stream_hash: str, workspace: str, session_id: str, now: int) -> None:
    """A tree that was captured. Before the checkpoint is saved, so that none is ever saved that cannot be restored."""
    connection.execute(
        "INSERT OR REPLACE INTO captures (stream_hash, workspace, session_id, checkpoint_id, unix_nanos)"
        " VALUES (?, ?, ?, '', ?)",
        (stream_hash, workspace, session_id, now),
    )
    connection.execute("DELETE FROM captures WHERE number <= (SELECT MAX(number) FROM captures) - ?", (MOST_ROWS,))


def name(connection: sqlite3.Connection, stream_hash: str, workspace: str, checkpoint_id: str) -> None:
    """The (newest) checkpoint that it is in."""
    sql = "UPDATE captures SET checkpoint_id = ? WHERE stream_hash = ? AND workspace = ?"
    connection.execute(sql, (checkpoint_id, stream_hash, workspace))


def is_ours(connection: sqlite3.Connection, stream_hash: str, workspace: str) -> bool:
    """Whether we captured that tree in that workspace."""
    sql = "SELECT 1 FROM captures WHERE stream_hash = ? AND workspace = ?"
    return connection.execute(sql, (stream_hash, workspace)).fetchone() is not None
