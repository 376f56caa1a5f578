"""`selfware-inferenced`: wire the settings, the queue and the engine together and serve."""

from __future__ import annotations

import sys

from selfware_common import daemon
from selfware_inferenced.service import Inferenced


def main() -> int:
    """Returns the exit status."""
    return daemon.run(Inferenced)


if __name__ == "__main__":
    sys.exit(main())
