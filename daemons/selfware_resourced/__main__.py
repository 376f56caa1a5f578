"""Starts selfware-resourced."""

import sys

from selfware_common.daemon import run
from selfware_resourced.service import Resourced


def main() -> int:
    """Run until SIGTERM; the exit status says why it ended."""
    return run(Resourced)


if __name__ == "__main__":
    sys.exit(main())
