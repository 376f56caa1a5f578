"""What short-lived programs need of ``typing``, without its import: 5 of the 27 ms that a runner needs to start.

A type checker sees typing's own. When it runs, NamedTuple is collections.namedtuple in the same notation, and the names
that only stand in annotations stand for nothing.
"""

from __future__ import annotations

from collections import namedtuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NamedTuple, NoReturn
else:
    Any = NoReturn = object

    class _Record(type):
        """Makes a class statement with annotated fields into a namedtuple with the methods that stand there."""

        def __new__(mcs, name: str, _bases: tuple[type, ...], body: dict[str, object]) -> type:
            fields = body.get("__annotations__", {})
            defaults = [body[field] for field in fields if field in body]
            made = namedtuple(name, fields, defaults=defaults, module=body["__module__"])
            for key, value in body.items():
                if key not in fields and key not in {"__module__", "__qualname__", "__annotations__", "__classcell__"}:
                    setattr(made, key, value)
            return made

    NamedTuple = type.__new__(_Record, "NamedTuple", (), {})

__all__ = ["Any", "NamedTuple", "NoReturn"]
