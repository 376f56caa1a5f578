"""JSON for programs that live for some milliseconds: the compiled half of Python's ``json``, without the half that
imports ``re`` and ``enum``. Of the 15 ms that such a program imports, those are 6.

Says and reads the same as ``json.dumps`` and ``json.loads`` do; where the compiled half is missing or another one, it
is those two. A message that is no JSON is a ValueError.
"""

from __future__ import annotations

from selfware_common.record import Any

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    Scan = Callable[[str, int], tuple[Any, int]]


class _Context:
    """What json.JSONDecoder tells its scanner."""

    strict = True
    object_hook = object_pairs_hook = None
    parse_float = float
    parse_int = int
    parse_constant = float


def _refuse(value: object) -> Any:
    raise TypeError(f"{type(value).__name__} is not a part of JSON")


def _compiled() -> tuple[Callable[[Any], str], Callable[[str], Any]]:
    from _json import encode_basestring_ascii, make_encoder, make_scanner

    encode = make_encoder(None, _refuse, encode_basestring_ascii, None, ": ", ", ", False, False, True)
    scan: Scan = make_scanner(_Context())  # type: ignore[arg-type]

    def dumps(value: Any) -> str:
        return "".join(encode(value, 0))

    def loads(text: str) -> Any:
        try:
            value, end = scan(text, 0)
        except StopIteration:
            raise ValueError("it is no JSON") from None
        if text[end:].strip():
            raise ValueError("something follows after the JSON")
        return value

    if loads(dumps({"a": [1, 2.5, "\u00e9", None, True]})) != {"a": [1, 2.5, "\u00e9", None, True]}:
        raise ImportError("another JSON than ours")
    return dumps, loads


try:
    dumps, loads = _compiled()
except (ImportError, TypeError, AttributeError):
    from json import dumps, loads

__all__ = ["dumps", "loads"]
