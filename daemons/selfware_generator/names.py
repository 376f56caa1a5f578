"""Names of units made from names of models: systemd's escaping, as `systemd-escape` does it (systemd.unit(5))."""

from __future__ import annotations

import string

UNIT_NAME_LIMIT_BYTES = 255
_PLAIN = frozenset((string.ascii_letters + string.digits + ":_.").encode())


def unit_name_escape(name: str) -> str:
    """ "/" becomes "-"; all but letters, digits, ":", "_" and "." becomes \\xNN, and so does a "." at the beginning."""
    return "".join(_escaped(byte, first=index == 0) for index, byte in enumerate(name.encode()))


def _escaped(byte: int, *, first: bool) -> str:
    if byte == ord("/"):
        return "-"
    if byte not in _PLAIN or (first and byte == ord(".")):
        return f"\\x{byte:02x}"
    return chr(byte)


def engine_unit(model: str) -> str | None:
    """The engine that serves `model`; None when no unit can have that name."""
    unit = f"selfware-engine@{unit_name_escape(model)}.service"
    return unit if model and len(unit) <= UNIT_NAME_LIMIT_BYTES else None
