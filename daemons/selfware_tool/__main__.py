"""The runner's command line: ``python -m selfware_tool EFFECT_DIRECTORY [LOCK_FD]``.

The launcher starts this file by its path with ``-I -S``, which skips 2-5 ms of site-packages; the package is then
found from here.
"""

from __future__ import annotations

import os
import sys

USAGE = "usage: python -m selfware_tool EFFECT_DIRECTORY"


def main() -> None:
    """Leave the session of whoever started us, let go of its files, run the effect, and go without ceremony."""
    if len(sys.argv) not in {2, 3}:
        sys.exit(USAGE)
    lock_fd = int(sys.argv[2]) if len(sys.argv) == 3 else -1
    if os.getsid(0) != os.getpid() and os.getpgid(0) != os.getpid():
        os.setsid()
    from selfware_tool.runner import main as run

    status = run(sys.argv[1], lock_fd)
    sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    if not __package__:
        beside = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
        # selfware_common lies beside us, or in a source tree one higher.
        sys.path[:1] = [beside] if os.path.isdir(f"{beside}/selfware_common") else [beside, os.path.dirname(beside)]
    main()
