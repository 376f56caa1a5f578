"""Which checkpointd session holds which LangGraph thread.

A thread id may be any text, a session id is a plain file name of at most 128 characters. An id that is one already
stays readable (`langgraph-<thread id>`), so that an operator finds it again; any other becomes `langgraph.<hash>` and
the first event of the session says which thread it is. The two forms cannot meet: their tenth character differs.
"""

from __future__ import annotations

import re

from blake3 import blake3

READABLE, HASHED = "langgraph-", "langgraph."
_PLAIN = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,99}")


def session_of(thread_id: str) -> str:
    """The session that holds a thread."""
    if _PLAIN.fullmatch(thread_id):
        return READABLE + thread_id
    return HASHED + blake3(thread_id.encode("utf-8", "surrogatepass")).hexdigest()


def is_ours(session_id: str) -> bool:
    """Does the session hold a LangGraph thread?"""
    return session_id.startswith((READABLE, HASHED))
