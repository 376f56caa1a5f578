"""How anything is printed: tables for people, JSON for programs, one sentence for a failure.

Every text may come from a model or a tool, so everything that reaches a terminal passes `printable`: a title cannot
clear the screen or forge a line. Times are kept in UTC and shown in local time.
"""

from __future__ import annotations

import functools
import json
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

from selfware_common.log import printable

if TYPE_CHECKING:
    from google.protobuf.message import Message

F = TypeVar("F", bound=Callable[..., Any])
CTL_EXITS = frozenset({2, 3, 4})
REFUSED_EXITS = frozenset({75})
"""Already running: refused by state."""


class _Mode:
    """Whether this run was asked for JSON; known to failures too."""

    json = False


def json_option(function: F) -> F:
    """Adds --json; the command asks `wants_json()`."""

    def remember(_context: click.Context, _option: click.Parameter, value: bool) -> None:
        _Mode.json = _Mode.json or value

    option = click.option(
        "--json", is_flag=True, expose_value=False, is_eager=True, callback=remember, help="Print JSON."
    )
    return option(function)


def wants_json() -> bool:
    """--json was given."""
    return _Mode.json


def emit(value: Any) -> None:
    """One JSON document on one line (ASCII only, so that it cannot drive a terminal either)."""
    click.echo(json.dumps(value, separators=(", ", ": ")))


def say(text: str) -> None:
    """One line for a person."""
    click.echo(printable(text))


def block(text: str, indent: str = "  ") -> None:
    """Several lines for a person, each escaped by itself."""
    for line in text.splitlines():
        click.echo(indent + printable(line.expandtabs(4)))


def table(head: Sequence[str], rows: Sequence[Sequence[object]], empty: str = "nothing") -> None:
    """Aligned columns; on a terminal the last one is cut to its width."""
    if not rows:
        say(empty)
        return
    cells = [[printable(str(cell)) for cell in row] for row in (head, *rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(head))]
    room = shutil.get_terminal_size().columns if sys.stdout.isatty() else 0
    for row in cells:
        line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        click.echo(line if not room or len(line) <= room else line[: room - 1] + "…")


def pairs(values: Mapping[str, object]) -> None:
    """Name and value, one a line; empty values are left out."""
    shown = {name: str(value) for name, value in values.items() if str(value)}
    width = max((len(name) for name in shown), default=0)
    for name, value in shown.items():
        click.echo(f"{name.ljust(width)}  {printable(value)}")


def fail(error: Exception) -> int:
    """Print a failure on stderr (with --json also as an object on stdout) and give its exit status."""
    sentence = getattr(error, "sentence", "") or _system_sentence(error)
    hint = getattr(error, "advice", "")
    if _Mode.json:
        emit({"error": {"sentence": sentence, "hint": hint, "kind": type(error).__name__.removesuffix("Error")}})
    click.echo(f"selfwarectl: {printable(sentence)}" + (f"\n  {printable(hint)}" if hint else ""), err=True)
    code = getattr(error, "exit_code", 1)
    return 4 if code in REFUSED_EXITS else code if code in CTL_EXITS else 1


def plain(message: Message) -> dict[str, Any]:
    """A protobuf message as JSON values: every field present, enums as short lower-case names, bytes as hex."""
    return {field.name: _field(message, field) for field in message.DESCRIPTOR.fields}


def local_time(unix_nanos: int) -> str:
    """In the zone of the reader; '' for never."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(unix_nanos / 1e9)) if unix_nanos else ""


def duration(seconds: float) -> str:
    """4s, 3m 12s, 5h 02m, 6d 03h."""
    whole = max(0, int(seconds))
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m {whole % 60:02}s"
    if whole < 86400:
        return f"{whole // 3600}h {whole % 3600 // 60:02}m"
    return f"{whole // 86400}d {whole % 86400 // 3600:02}h"


def since(unix_nanos: int) -> str:
    """Time from then to now; '' for never."""
    return duration(time.time() - unix_nanos / 1e9) if unix_nanos else ""


def size(count: float) -> str:
    """Bytes for people: 512 B, 1.5 MiB."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" or count >= 100 else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


@functools.cache
def _enum_prefix(name: str) -> str:
    """ "TaskState" -> "TASK_STATE_"."""
    words = "".join(f"_{char}" if char.isupper() else char for char in name).strip("_")
    return f"{words.upper()}_"


def _field(message: Any, field: Any) -> Any:
    value = getattr(message, field.name)
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        return dict(value)
    if field.is_repeated:
        return [_value(field, one) for one in value]
    if field.message_type is not None and not message.HasField(field.name):
        return None
    return _value(field, value)


def _value(field: Any, value: Any) -> Any:
    if field.message_type is not None:
        return plain(value)
    if field.enum_type is not None:
        name = field.enum_type.values_by_number[value].name
        return name.removeprefix(_enum_prefix(field.enum_type.name)).lower()
    return value.hex() if isinstance(value, bytes) else value


def _system_sentence(error: Exception) -> str:
    if isinstance(error, OSError):
        return f"{error.strerror or error}: {error.filename}" if error.filename else str(error.strerror or error)
    return str(error)
