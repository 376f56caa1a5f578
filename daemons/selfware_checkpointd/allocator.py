"""Has the C library give large blocks of memory back to the system as soon as they are free.

Left alone, glibc takes the first large block that is freed for a sign that there will be more of them, and puts those
that follow among the small ones: there what is free cannot be given back while something small lies behind it. A daemon
that runs for days, and packs groups of 8 MiB beside everything else, comes to half as much memory again (528 MB instead
of 360 after 20 saves of 100 MB, while they were packed and restored). Source: mallopt(3), M_MMAP_THRESHOLD.
"""

from __future__ import annotations

import ctypes

LARGE_BYTES = 4 * 1024 * 1024  # no piece of a save: fresh memory for each of those would cost time
_M_MMAP_THRESHOLD = -3  # malloc.h


def keep_large_blocks_apart() -> bool:
    """Once, before there are threads; False if this C library has no such setting."""
    try:
        return bool(ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, LARGE_BYTES))
    except AttributeError:
        return False
