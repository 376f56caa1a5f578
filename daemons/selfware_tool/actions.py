"""Reads the actions that a model proposed into typed values; the one place where their form is checked.

The JSON form is the protobuf one with the names of the proto kept, so ``MessageToDict(action,
preserving_proto_field_name=True)`` gives it: ``{"run_command": {"argv": ["make", "test"]}}``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from selfware_common.record import Any, NamedTuple

from .refusal import RefusalError, UnsupportedKindError

UNSUPPORTED = frozenset({"http_request", "self_modify", "resource_override", "finish"})


class RunCommand(NamedTuple):
    """A program with its arguments, or a shell script: exactly one of the two."""

    argv: tuple[str, ...]
    script: str
    cwd: str
    env: tuple[tuple[str, str], ...]
    timeout_seconds: float


class RunCode(NamedTuple):
    """A piece of source text, run by the interpreter of its language in the workspace."""

    language: str
    code: str
    timeout_seconds: float


class ReadFile(NamedTuple):
    """Lines of a file: ``limit`` lines (0: all) from line ``offset``, the first being 0."""

    path: str
    offset: int
    limit: int


class WriteFile(NamedTuple):
    """A whole file, replaced at once."""

    path: str
    content: str
    executable: bool


class EditFile(NamedTuple):
    """One passage of a file, which must occur exactly once, replaced by another."""

    path: str
    old: str
    new: str


class Search(NamedTuple):
    """The lines that match a regular expression, below ``path``, in files whose name matches ``glob``."""

    pattern: str
    path: str
    glob: str


Action = RunCommand | RunCode | ReadFile | WriteFile | EditFile | Search


def parse_action(record: Mapping[str, Any]) -> Action:
    """The typed action; RefusalError says in words what is wrong with the record."""
    if len(record) != 1:
        raise RefusalError(f"an action has exactly one kind; this one has {sorted(record)}")
    ((kind, value),) = record.items()
    if kind in UNSUPPORTED:
        raise UnsupportedKindError(kind)
    reader = _READERS.get(kind)
    if reader is None:
        raise RefusalError(f"{kind!r} is not a kind of action")
    if not isinstance(value, Mapping):
        raise RefusalError(f"{kind} holds {type(value).__name__} where its fields belong")
    fields = _Fields(kind, value)
    action = reader(fields)
    fields.refuse_unknown()
    return action


class _Fields:
    """Takes fields out of a record one by one, checking each, and notices what was not asked for."""

    def __init__(self, kind: str, record: Mapping[str, Any]) -> None:
        self.kind = kind
        self.record = record
        self.known: set[str] = set()

    def text(self, name: str, *, required: bool = False) -> str:
        value = self._take(name, "")
        if not isinstance(value, str):
            raise RefusalError(f"{self.kind}.{name} must be text")
        if required and not value:
            raise RefusalError(f"{self.kind}.{name} is empty")
        return value

    def word(self, name: str, *, required: bool = False) -> str:
        """Text that goes into a path or an argument list: the kernel ends those at a NUL."""
        return self._no_nul(name, self.text(name, required=required))

    def words(self, name: str) -> tuple[str, ...]:
        value = self._take(name, [])
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise RefusalError(f"{self.kind}.{name} must be a list of texts")
        return tuple(self._no_nul(name, item) for item in value)

    def environment(self, name: str) -> tuple[tuple[str, str], ...]:
        value = self._take(name, {})
        if not isinstance(value, Mapping) or not all(
            isinstance(key, str) and isinstance(item, str) for key, item in value.items()
        ):
            raise RefusalError(f"{self.kind}.{name} must map names to texts")
        for key, item in value.items():
            if not key or "=" in self._no_nul(name, key):
                raise RefusalError(f"{self.kind}.{name} has a variable called {key!r}")
            self._no_nul(name, item)
        return tuple(sorted(value.items()))

    def count(self, name: str) -> int:
        """A whole number; protobuf writes 64-bit ones as text."""
        value = self._take(name, 0)
        if isinstance(value, str) and value.isascii() and value.isdigit():
            value = int(value)
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise RefusalError(f"{self.kind}.{name} must be a whole number, 0 or more")
        return value

    def seconds(self, name: str) -> float:
        value = self._take(name, 0)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < float("inf"):
            raise RefusalError(f"{self.kind}.{name} must be a number of seconds, 0 or more")
        return float(value)

    def flag(self, name: str) -> bool:
        value = self._take(name, False)
        if not isinstance(value, bool):
            raise RefusalError(f"{self.kind}.{name} must be true or false")
        return value

    def refuse_unknown(self) -> None:
        if unknown := sorted(set(self.record) - self.known):
            raise RefusalError(f"{self.kind} has no field {unknown[0]!r}")

    def _take(self, name: str, default: object) -> Any:
        self.known.add(name)
        return self.record.get(name, default)

    def _no_nul(self, name: str, value: str) -> str:
        if "\0" in value:
            raise RefusalError(f"{self.kind}.{name} contains a NUL character")
        return value


def _run_command(fields: _Fields) -> RunCommand:
    action = RunCommand(
        argv=fields.words("argv"),
        script=fields.text("script"),
        cwd=fields.word("cwd"),
        env=fields.environment("env"),
        timeout_seconds=fields.seconds("timeout_seconds"),
    )
    if bool(action.argv) == bool(action.script):
        raise RefusalError("run_command needs either argv or script, and not both")
    if action.argv and not action.argv[0]:
        raise RefusalError("run_command.argv names no program")
    return action


def _run_code(fields: _Fields) -> RunCode:
    return RunCode(
        fields.word("language", required=True),
        fields.text("code", required=True),
        fields.seconds("timeout_seconds"),
    )


def _read_file(fields: _Fields) -> ReadFile:
    return ReadFile(fields.word("path", required=True), fields.count("offset"), fields.count("limit"))


def _write_file(fields: _Fields) -> WriteFile:
    return WriteFile(fields.word("path", required=True), fields.text("content"), fields.flag("executable"))


def _edit_file(fields: _Fields) -> EditFile:
    path = fields.word("path", required=True)
    return EditFile(path, fields.text("old", required=True), fields.text("new"))


def _search(fields: _Fields) -> Search:
    return Search(fields.text("pattern", required=True), fields.word("path"), fields.word("glob"))


_READERS: dict[str, Callable[[_Fields], Action]] = {
    "run_command": _run_command,
    "run_code": _run_code,
    "read_file": _read_file,
    "write_file": _write_file,
    "edit_file": _edit_file,
    "search": _search,
}
