"""Reads selfware.toml into frozen dataclasses: every mistake is one sentence that names file, key and remedy.

Mechanism only; the keys themselves live in settings.py. A value is checked for its type, its range (field metadata
`minimum`, `maximum`, `choices`) and its name: an unknown key is an error that names the nearest known one, because a
silently ignored limit is worse than a daemon that does not start.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import tomllib
import types
import typing
from pathlib import Path
from typing import Any, TypeVar

from selfware_common.errors import ConfigError

T = TypeVar("T")


def setting(default: Any, why: str, **limits: Any) -> Any:
    """A dataclass field with its default, the sentence that documents it, and its limits."""
    metadata = {"why": why, **limits}
    if callable(default):
        return dataclasses.field(default_factory=default, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def load(kind: type[T], path: Path) -> T:
    """`path` plus `path`.d/*.toml in name order (later wins, table by table). A missing file means all defaults.

    Raises ConfigError with one sentence for unreadable files, bad TOML, unknown keys, wrong types, values out of range.
    """
    merged: dict[str, Any] = {}
    for source in sources(path):
        table = _read(source)
        parse(kind, table, source)  # so that a mistake is blamed on the file that holds it
        _merge(merged, table)
    return parse(kind, merged, path)


def sources(path: Path) -> list[Path]:
    """All files that load() reads, in that order; the first may be missing."""
    return [path, *sorted(Path(f"{path}.d").glob("*.toml"))]


def parse(kind: type[T], table: dict[str, Any], path: Path, prefix: str = "") -> T:
    """Turn one TOML table into `kind`, checking every key and value."""
    hints = typing.get_type_hints(kind)
    known = {field.name: field for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    values = {}
    for key, value in table.items():
        where = f"{prefix}{key}"
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
            guess = f"; did you mean '{prefix}{near[0]}'?" if near else f"; known here: {', '.join(sorted(known))}"
            raise ConfigError(path=path, problem=f"unknown key '{where}'{guess}")
        values[key] = _value(hints[key], value, path, where, dict(known[key].metadata))
    return kind(**values)


def _read(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as stream:
            return tomllib.load(stream)
    except FileNotFoundError:
        return {}
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(path=path, problem=f"not valid TOML: {error}") from None
    except PermissionError as error:
        remedy = f"all daemons have to: run 'sudo chmod 644 {path}'"
        raise ConfigError(path=path, problem=f"cannot be read: {error.strerror}; {remedy}") from None
    except OSError as error:
        raise ConfigError(path=path, problem=f"cannot be read: {error.strerror}") from None


def _merge(into: dict[str, Any], table: dict[str, Any]) -> None:
    for key, value in table.items():
        if isinstance(value, dict) and isinstance(into.get(key), dict):
            _merge(into[key], value)
        else:
            into[key] = value


def _value(hint: Any, value: Any, path: Path, where: str, limits: dict[str, Any]) -> Any:
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        if not isinstance(value, dict):
            raise ConfigError(path=path, problem=f"'{where}' must be a table, not {_name(value)}")
        return parse(hint, value, path, f"{where}.")
    origin = typing.get_origin(hint)
    if origin is tuple:
        return _sequence(hint, value, path, where, limits)
    if origin is dict:
        return _mapping(hint, value, path, where, limits)
    if origin in (typing.Union, types.UnionType):
        hint = next(arg for arg in typing.get_args(hint) if arg is not type(None))
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        wanted = _WORDS.get(hint, hint.__name__)
        raise ConfigError(path=path, problem=f"'{where}' must be {wanted}, not {_name(value)} ({value!r})")
    _check_limits(value, path, where, limits)
    return value


def _sequence(hint: Any, value: Any, path: Path, where: str, limits: dict[str, Any]) -> tuple[Any, ...]:
    if not isinstance(value, list):
        raise ConfigError(path=path, problem=f"'{where}' must be a list, not {_name(value)} ({value!r})")
    item = typing.get_args(hint)[0]
    return tuple(_value(item, one, path, f"{where}[{index}]", limits) for index, one in enumerate(value))


def _mapping(hint: Any, value: Any, path: Path, where: str, limits: dict[str, Any]) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ConfigError(path=path, problem=f"'{where}' must be a table, not {_name(value)} ({value!r})")
    item = typing.get_args(hint)[1]
    return {key: _value(item, one, path, f"{where}.{key}", limits) for key, one in value.items()}


def _check_limits(value: Any, path: Path, where: str, limits: dict[str, Any]) -> None:
    if "choices" in limits and value not in limits["choices"]:
        near = difflib.get_close_matches(str(value), limits["choices"], n=1, cutoff=0.4)
        guess = f"; did you mean '{near[0]}'?" if near else ""
        allowed = ", ".join(repr(choice) for choice in limits["choices"])
        raise ConfigError(path=path, problem=f"'{where}' is {value!r}, but must be one of {allowed}{guess}")
    if "minimum" in limits and value < limits["minimum"]:
        raise ConfigError(path=path, problem=f"'{where}' is {value}, but must be at least {limits['minimum']}")
    if "maximum" in limits and value > limits["maximum"]:
        raise ConfigError(path=path, problem=f"'{where}' is {value}, but must be at most {limits['maximum']}")


_WORDS = {int: "a whole number", float: "a number", str: "a string", bool: "true or false"}


def _name(value: Any) -> str:
    names = {dict: "a table", list: "a list", **_WORDS}
    return names.get(type(value), type(value).__name__)


def render(value: Any, prefix: str = "") -> str:
    """A settings dataclass as commented TOML: each key under its sentence, tables after plain keys."""
    plain, tables = [], []
    for field in dataclasses.fields(value):
        item, why = getattr(value, field.name), field.metadata.get("why", "")
        if dataclasses.is_dataclass(item):
            name = f"{prefix}{field.name}"
            body = render(item, f"{name}.")
            tables.append(f"# {why}\n[{name}]\n{body}")
        else:
            limits = f" One of: {', '.join(field.metadata['choices'])}." if "choices" in field.metadata else ""
            plain.append(f"# {why}{limits}\n{field.name} = {toml_value(item)}\n")
    return "".join(plain) + "".join(f"\n{table}" for table in tables)


def toml_value(item: Any) -> str:
    """One plain value in TOML's notation; JSON strings are valid TOML basic strings."""
    if isinstance(item, tuple):
        return "[" + ", ".join(toml_value(one) for one in item) + "]"
    if isinstance(item, dict):
        return "{ " + ", ".join(f"{key} = {toml_value(one)}" for key, one in item.items()) + " }"
    return json.dumps(item)
