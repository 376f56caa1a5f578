"""Runs inside a booted image, as root: one action through selfware-tool.socket, its result as a line of JSON.

    act.py WORKSPACE ACTION_JSON [LIMITS_JSON [COMMAND]]

COMMAND is run by a shell while the sandbox waits for its action.

As oversightd does it, but without policy: these tests are about what the unit lets an action do.
"""

import json
import subprocess
import sys
import time
import uuid
from pathlib import Path

sys.path[:0] = ["/usr/lib/selfware/app", "/usr/lib/selfware/vendor"]

from selfware_tool import launcher
from selfware_tool.effect import read_output
from selfware_tool.request import Limits, Request
from selfware_tool.units import Units

EFFECTS = Path("/var/lib/selfware/tool/effects")


def main() -> None:
    """Prints {"ran", "exit_status", "sentence", "output", "state", "effect_id"}."""
    workspace, action = sys.argv[1], json.loads(sys.argv[2])
    limits = Limits(**(json.loads(sys.argv[3]) if len(sys.argv) > 3 else {}))
    effect_id = f"test-{uuid.uuid4().hex[:12]}"
    request = Request(effect_id, action, workspace, launcher.python_home(), limits)
    between = sys.argv[4] if len(sys.argv) > 4 else ""
    units = Units(Path("/run/selfware/tool.sock"), ahead=1 if between else 0)
    if between:
        units.prepare_ahead()
        time.sleep(1)  # it cannot be seen whether the sandbox is there already
        subprocess.run(between, shell=True, check=True)
    units.launch(EFFECTS / effect_id, request, {"task_id": "test"})
    status = launcher.wait(EFFECTS / effect_id, 1000)
    result = status.result
    told = {"state": status.state.value, "effect_id": effect_id, "output": read_output(EFFECTS / effect_id).decode()}
    if result is not None:
        told |= {"ran": result.ran, "exit_status": result.exit_status, "sentence": result.sentence, "ok": result.ok}
    print(json.dumps(told))


if __name__ == "__main__":
    main()
