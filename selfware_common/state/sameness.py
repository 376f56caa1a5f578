"""Do two pieces of memory hold the same bytes? Asked of the C library, which meanwhile lets other threads run.

Python's own comparison of 64 MB keeps every other thread of the process waiting for 6 ms: whoever reads the rest of
the state, or compares its other half.
"""

from __future__ import annotations

import ctypes

_memcmp = ctypes.CDLL(None).memcmp
_memcmp.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)
_memcmp.restype = ctypes.c_int


class Sameness:
    """Of two states, which must not change their size meanwhile: a bytearray cannot, as long as this lives, but for an
    empty one. That stays empty here."""

    def __init__(self, old: bytes | bytearray, new: bytes | bytearray) -> None:
        self._old, self._new = old, new  # so that they live
        self._old_size, self._new_size = len(old), len(new)
        self._held = [ctypes.c_char.from_buffer(one) for one in (old, new) if one and isinstance(one, bytearray)]
        self._old_address, self._new_address = _address(old), _address(new)

    def of(self, old_at: int, new_at: int, size: int) -> bool:
        """So many bytes from these two places on; False if there are not so many."""
        if min(old_at, new_at, size) < 0 or old_at + size > self._old_size or new_at + size > self._new_size:
            return False
        return not _memcmp(self._old_address + old_at, self._new_address + new_at, size)


def _address(state: bytes | bytearray) -> int:
    if not state:
        return 0
    if isinstance(state, bytearray):
        return ctypes.addressof(ctypes.c_char.from_buffer(state))
    return ctypes.cast(ctypes.c_char_p(state), ctypes.c_void_p).value or 0
