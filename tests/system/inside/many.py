"""Runs inside a booted image, as root: so many actions in a row, each leaving a process behind if it can.

    many.py COUNT WORKSPACE

Prints how many ended well, and how many processes of the tool's user are left once the last unit has ended.
"""

import json
import subprocess
import sys
import time
import uuid
from pathlib import Path

sys.path[:0] = ["/usr/lib/selfware/app", "/usr/lib/selfware/vendor"]

from selfware_tool import launcher
from selfware_tool.request import Request
from selfware_tool.units import Units

EFFECTS = Path("/var/lib/selfware/tool/effects")
SCRIPT = "setsid sleep 600 >/dev/null 2>&1 & (sleep 600 >/dev/null 2>&1 &); exit 0"


def main() -> None:
    """One line of JSON."""
    count, workspace = int(sys.argv[1]), sys.argv[2]
    units = Units(Path("/run/selfware/tool.sock"))
    well = 0
    for number in range(count):
        units.prepare_ahead()
        effect_id = f"many-{uuid.uuid4().hex[:12]}"
        request = Request(effect_id, {"run_command": {"script": SCRIPT}}, workspace, launcher.python_home())
        units.launch(EFFECTS / effect_id, request, {})
        status = launcher.wait(EFFECTS / effect_id, 120)
        well += status.result is not None and status.result.ok
        if number % 50 == 49:
            print(f"{number + 1} actions", file=sys.stderr, flush=True)
    units.close()
    end = time.monotonic() + 60
    while left := orphans():
        if time.monotonic() > end:
            break
        time.sleep(0.5)
    print(json.dumps({"ran": count, "well": well, "orphans": left}))


def orphans() -> list[str]:
    """Processes of the tool's user that are not runners waiting for oversightd."""
    done = subprocess.run(
        ["ps", "-u", "selfware-tool", "-o", "pid=,args="], capture_output=True, text=True, check=False
    )
    return [line.strip() for line in done.stdout.splitlines() if "selfware-tool-unit" not in line]


if __name__ == "__main__":
    main()
