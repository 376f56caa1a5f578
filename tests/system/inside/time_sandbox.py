"""Runs inside a booted image, as root: what starting a sandbox costs, each way in turn, as lines of JSON.

    time_sandbox.py ROUNDS WORKSPACE

Seconds from asking to the end of /bin/true. `warm`: a unit that waited for the action; `cold`: a new connection.
"""

import json
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path

sys.path[:0] = ["/usr/lib/selfware/app", "/usr/lib/selfware/vendor"]

from selfware_tool import launcher
from selfware_tool.request import Request
from selfware_tool.units import Units

EFFECTS = Path("/var/lib/selfware/tool/effects")
BWRAP = ["bwrap", "--ro-bind", "/usr", "/usr", "--symlink", "usr/bin", "/bin", "--symlink", "usr/lib", "/lib"]
BWRAP += ["--symlink", "usr/lib64", "/lib64", "--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp"]
BWRAP += ["--unshare-all", "--die-with-parent", "--new-session", "--cap-drop", "ALL", "/bin/true"]
IDLE_SECONDS = 0.25  # for the unit opened ahead to reach its socket


def unit(units: Units, workspace: str) -> float:
    """One action through the socket."""
    effect_id = f"time-{uuid.uuid4().hex[:12]}"
    request = Request(effect_id, {"run_command": {"argv": ["/bin/true"]}}, workspace, launcher.python_home())
    directory = EFFECTS / effect_id
    began = time.perf_counter()
    units.launch(directory, request, {})
    status = launcher.wait(directory, 60)
    seconds = time.perf_counter() - began
    assert status.result is not None and status.result.ok, status
    return seconds


def program(argv: list[str]) -> float:
    """A plain child process."""
    began = time.perf_counter()
    subprocess.run(argv, check=True)
    return time.perf_counter() - began


def main() -> None:
    """One line per round and way."""
    rounds, workspace = int(sys.argv[1]), sys.argv[2]
    ahead, cold = Units(Path("/run/selfware/tool.sock"), ahead=1), Units(Path("/run/selfware/tool.sock"), ahead=0)

    def warm() -> float:
        ahead.prepare_ahead()
        time.sleep(IDLE_SECONDS)
        return unit(ahead, workspace)

    ways: dict[str, Callable[[], float]] = {
        "warm": warm,
        "cold": lambda: unit(cold, workspace),
        "subprocess": lambda: program(["/bin/true"]),
        "bubblewrap": lambda: program(BWRAP),
    }
    for number in range(rounds):
        for name, measure in ways.items():
            print(json.dumps({"way": name, "round": number, "seconds": measure()}), flush=True)


if __name__ == "__main__":
    main()
