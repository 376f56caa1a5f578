"""Runs inside a booted image, as root: what lies on the disk below some directories, for whoever has no key.

    atrest.py WORD DIRECTORY...   {path: {"form": "pack 3", "key": "<key id>", "tells": whether WORD can be read in it}}

A file tells if WORD stands in it as it is, or in any zstd frame in it. Objects of the cold store are packs.
"""

import contextlib
import json
import sys
from pathlib import Path

sys.path[:0] = ["/usr/lib/selfware/app", "/usr/lib/selfware/vendor"]

import zstandard

FRAME = zstandard.FRAME_HEADER


def main() -> None:
    """One line of JSON."""
    word, *directories = sys.argv[1:]
    files = [path for top in directories for path in sorted(Path(top).rglob("*")) if path.is_file()]
    print(json.dumps({str(path): told(path.read_bytes(), word.encode()) for path in files if path.stat().st_size}))


def told(data: bytes, word: bytes) -> dict[str, object]:
    """docs/formats.md has the headers."""
    magic, version = data[:8], int.from_bytes(data[8:10], "little")
    key = b""
    if magic == b"SFWPACK\n":
        form, at = "pack", 26 + int.from_bytes(data[10:12], "little")
        key = data[at : at + 8] if version == 3 else b""
    elif magic == b"SFWJRNL\n":
        form, key = "segment", data[20:28] if version == 2 else b""
    elif magic == b"SFWSEAL\n":
        form, key = "sealed", data[24:32]
    else:
        form = "zstd" if data.startswith(FRAME) else "other"
    return {"form": f"{form} {version}", "key": key.hex(), "tells": word in data or word in unpacked(data)}


def unpacked(data: bytes) -> bytes:
    """All that can be decompressed in it."""
    found, at = [], data.find(FRAME)
    while at >= 0:
        with contextlib.suppress(zstandard.ZstdError):
            found.append(zstandard.ZstdDecompressor().decompressobj().decompress(data[at:]))
        at = data.find(FRAME, at + 1)
    return b"\0".join(found)


if __name__ == "__main__":
    main()
