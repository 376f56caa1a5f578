"""One whole client process that saves a state file or restores one: what a peer's command is compared with.

python3 -IS save_client.py ROOT save SOCKET FILE EPOCH STEP
python3 -IS save_client.py ROOT restore SOCKET FILE CHECKPOINT

ROOT is where selfware_common lies. As the installed programs do, it looks for nothing else.
"""

from __future__ import annotations

import gc
import os
import sys

if __name__ == "__main__":
    gc.disable()
    sys.path.append(sys.argv[1])

from selfware_common.state import saving

SESSION = "process"
LEVEL_SESSION = 3


def main(verb: str, path: str, name: str, *words: str) -> None:
    """One call."""
    file = os.open(name, os.O_RDWR | os.O_CREAT, 0o600)
    if verb == "save":
        epoch, step = map(int, words)
        saving.put_file(path, SESSION, epoch, LEVEL_SESSION, step, file)
    else:
        saving.get_file(path, words[0], file)


if __name__ == "__main__":
    main(*sys.argv[2:])
    os._exit(0)  # as the installed ones do: to take the interpreter down takes 2 ms
