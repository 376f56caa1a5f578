"""What happened between two checkpoints, in human terms: tasks, messages, files.

Works on what the agent saved as plain JSON, and on the trees of system checkpoints by their entries alone. All of it
may come from a model: ``output`` escapes it.
"""

from __future__ import annotations

import io
import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO, cast

from selfware_common import paths
from selfware_common.state.saving import SavingError, get_file
from selfware_common.state.sections import WORKSPACE, Section, SectionFile, sections_of, session_part
from selfware_common.state.wire import BULK_SOCKET
from selfwarectl import output, reach

FEW = 10
LINE_CHARS = 160
SIGNS = (("added", "+"), ("changed", "~"), ("deleted", "-"))


def between(before_id: str, after_id: str) -> dict[str, Any]:
    """What is different: {"events", "tasks", "messages", "files", "files_note"}."""
    with opened(before_id) as before, opened(after_id) as after:
        old, new = session_in(before, before_id), session_in(after, after_id)
        files, note = _files(before, after, before_id, after_id)
        return {
            "events": new["sequence"] - old["sequence"],
            "tasks": tasks_between(old["tasks"], new["tasks"]),
            "messages": messages_between(old["tasks"], new["tasks"]),
            "files": files,
            "files_note": note,
        }


@contextmanager
def opened(checkpoint_id: str) -> Iterator[BinaryIO]:
    """A checkpoint's verified state as a file that is gone afterwards."""
    with tempfile.TemporaryFile() as file:
        try:
            get_file(paths.from_environment().socket_of("checkpointd", BULK_SOCKET), checkpoint_id, file.fileno())
        except SavingError as error:
            raise reach.FailedError(reason=str(error)) from None
        yield cast(BinaryIO, file)


def session_in(file: BinaryIO, checkpoint_id: str) -> dict[str, Any]:
    """What the agent knew, as plain values; FailedError if it is not an agent's state."""
    try:
        data = session_part(file, checkpoint_id)
        session = json.loads(data)
        return {"sequence": int(session["sequence"]), "tasks": dict(session["tasks"])}
    except (ValueError, KeyError, TypeError):
        raise reach.FailedError(reason=f"{checkpoint_id} does not hold the state of Selfware's own agent.") from None


def streams_in(file: BinaryIO) -> dict[str, dict[str, Any]]:
    """Replies that were being written, by request: {"tokens", "text"}; none in the states of other programs."""
    file.seek(0)
    try:
        found = json.loads(file.read()).get("streams", {})
        return {str(name): {"tokens": int(one["tokens"]), "text": str(one["text"])} for name, one in found.items()}
    except (ValueError, AttributeError, KeyError, TypeError):
        return {}


def tasks_between(old: dict[str, Any], new: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """Tasks that came, went, or stand elsewhere."""
    changed = []
    for name in sorted(old.keys() & new.keys()):
        was, now = _standing(old[name]), _standing(new[name])
        if was != now:
            changed.append({"task_id": name, "from": was, "to": now})
    return {
        "added": [{"task_id": name, "to": _standing(new[name])} for name in sorted(new.keys() - old.keys())],
        "changed": changed,
        "deleted": [{"task_id": name, "from": _standing(old[name])} for name in sorted(old.keys() - new.keys())],
    }


def messages_between(old: dict[str, Any], new: dict[str, Any]) -> list[dict[str, str]]:
    """What was said since, task by task; a task that ended keeps none."""
    found = []
    for name in sorted(new):
        known = old[name]["turns"] if name in old else []
        for turn in _after(known, new[name]["turns"]):
            found.append({"task_id": name, "role": turn["role"], "content": turn["content"]})
    return found


def show(found: dict[str, Any], show_all: bool) -> None:
    """For people."""
    output.say(f"{abs(found['events'])} events {'later' if found['events'] >= 0 else 'earlier'}")
    tasks = found["tasks"]
    if any(tasks.values()):
        output.say("tasks")
    for kind, sign in SIGNS:
        for one in tasks[kind]:
            output.say(f"  {sign} {one['task_id']}  {_change(one)}")
    _few(
        "messages", [f"{one['task_id']} {one['role']}: {_line(one['content'])}" for one in found["messages"]], show_all
    )
    for where, files in found["files"].items():
        lines = [f"{sign} {path}" for kind, sign in SIGNS for path in files[kind]]
        _few(f"files in {where}", lines, show_all)
    if found["files_note"]:
        output.say(found["files_note"])
    elif not any(any(files.values()) for files in found["files"].values()):
        output.say("the files are the same")


def _files(before: BinaryIO, after: BinaryIO, before_id: str, after_id: str) -> tuple[dict[str, Any], str]:
    old = {one.name: one for one in sections_of(before, before_id) if one.kind == WORKSPACE}
    new = {one.name: one for one in sections_of(after, after_id) if one.kind == WORKSPACE}
    without = [name for name, has in ((before_id, old), (after_id, new)) if not has]
    if without:
        holds = "holds" if len(without) == 1 else "hold"
        return {}, f"no files are compared: {' and '.join(without)} {holds} none (only level 'system' does)"
    both = sorted(old.keys() & new.keys())
    only = sorted(old.keys() ^ new.keys())
    note = f"only one of them has {', '.join(only)}" if only else ""
    return {name: _tree_changes(before, old[name], after, new[name]) for name in both}, note


def _tree_changes(before: BinaryIO, old: Section, after: BinaryIO, new: Section) -> dict[str, list[str]]:
    from selfware_common.trees import diff_trees

    def tree(file: BinaryIO, section: Section) -> BinaryIO:
        return cast(BinaryIO, io.BufferedReader(SectionFile(file, section)))

    found = diff_trees(tree(before, old), tree(after, new))
    return {kind: [path.decode("utf-8", "backslashreplace") for path in getattr(found, kind)] for kind, _ in SIGNS}


def _standing(task: dict[str, Any]) -> dict[str, Any]:
    return {
        "state": task["phase"],
        "attempt": task["attempt"],
        "steps": task["requests"],
        "messages": len(task["turns"]),
        "sentence": task["sentence"],
    }


def _after(known: list[Any], turns: list[Any]) -> list[Any]:
    """The turns that are new. Both are the ends of one conversation, the later one perhaps without its beginning."""
    for start in range(len(known) + 1):
        kept = len(known) - start
        if kept <= len(turns) and known[start:] == turns[:kept]:
            return turns[kept:]
    return turns


def _change(one: dict[str, Any]) -> str:
    if "from" not in one or "to" not in one:
        there = one.get("to") or one["from"]
        return f"{there['state']}: {_line(there['sentence'])}"
    was, now = one["from"], one["to"]
    state = now["state"] if was["state"] == now["state"] else f"{was['state']} → {now['state']}"
    return f"{state}, {now['steps'] - was['steps']:+} steps: {_line(now['sentence'])}"


def _few(title: str, lines: list[str], show_all: bool) -> None:
    if not lines:
        return
    output.say(f"{title} ({len(lines)})")
    for line in lines if show_all else lines[:FEW]:
        output.say(f"  {line}")
    if not show_all and len(lines) > FEW:
        output.say(f"  … and {len(lines) - FEW} more; --all shows them")


def _line(text: str) -> str:
    line = " ".join(str(text).split())
    return line if len(line) <= LINE_CHARS else f"{line[:LINE_CHARS]}…"
