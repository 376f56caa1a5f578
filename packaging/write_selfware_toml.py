"""Writes packaging/selfware.toml from the schema: every setting at its default, each under its sentence.

`python packaging/write_selfware_toml.py [--check]`; tests/static proves the committed file fresh.
"""

from __future__ import annotations

import sys
from pathlib import Path

from selfware_common import config, settings

TARGET = Path(__file__).resolve().parent / "selfware.toml"
HEAD = """\
# /etc/selfware/selfware.toml: every setting at its default. Delete what you do not change; put your own values in
# selfware.toml.d/*.toml to keep them apart. An unknown key is an error. Check with 'selfwarectl config check'.

"""


def text() -> str:
    """What the file must hold."""
    return HEAD + config.render(settings.Settings()).lstrip("\n")


def main() -> int:
    """Write the file, or with --check say whether it is stale (exit 1)."""
    if "--check" in sys.argv[1:]:
        if TARGET.read_text(encoding="utf-8") != text():
            print("stale: packaging/selfware.toml; run 'python packaging/write_selfware_toml.py'")
            return 1
        return 0
    TARGET.write_text(text(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
