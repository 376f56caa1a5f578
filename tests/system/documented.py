"""What docs/installing.md tells an operator to type, so that a test types exactly that."""

from __future__ import annotations

import re

from tests.system.guest import Completed, Guest
from tests.system.installed import ROOT

PAGE = ROOT / "docs" / "installing.md"
SUDO = '#!/bin/sh\n# The operator of these tests is root already.\nexec "$@"\n'


def steps(heading: str, holding: str) -> str:
    """The one block of shell below that heading which holds these words."""
    page = PAGE.read_text(encoding="utf-8")
    (section,) = (part for part in re.split(r"^## ", page, flags=re.MULTILINE) if part.startswith(f"{heading}\n"))
    blocks = re.findall(r"^```sh\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)
    (block,) = (block for block in blocks if holding in block)
    assert isinstance(block, str)
    return block


def follow(guest: Guest, heading: str, holding: str) -> Completed:
    """Type them, in a directory of root's."""
    if not guest.exists("/usr/local/bin/sudo"):
        guest.write("/usr/local/bin/sudo", SUDO)
        guest.run("chmod", "755", "/usr/local/bin/sudo")
    return guest.shell(f"cd /root\n{steps(heading, holding)}", timeout=120)
