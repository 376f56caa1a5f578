"""Runs a task's check once more, in the same sandbox as any action: what was claimed must hold at the end."""

from __future__ import annotations

import os
import shutil
import tempfile
import uuid
from pathlib import Path

from selfware_common.paths import Paths
from selfware_tool import launcher
from selfware_tool.effect import EffectState, EffectStatus, read_output
from selfware_tool.request import Request
from selfware_tool.units import Units
from selfwarectl import reach
from selfwarectl.demo.demo_job import DemoTask

SECONDS = 120.0
TOOL_SOCKET = "tool.sock"


def holds(where: Paths, workspace: Path, task: DemoTask) -> bool:
    """Whether the check of `task` passes on the workspace as it is now. Raises FailedError if it cannot be run."""
    action = {"run_command": {"argv": list(task.check), "timeout_seconds": SECONDS}}
    effect_id = f"evidence-{task.name}-{uuid.uuid4().hex[:8]}"
    request = Request(effect_id, action, str(workspace), launcher.python_home())
    status, said = _in_a_unit(where, request) if _is_roots(where) else _in_bubblewrap(request)
    if status.state is not EffectState.DONE or status.result is None or not status.result.ran:
        why = " ".join([status.sentence, *said.decode("utf-8", "replace").splitlines()[-1:]])
        raise reach.FailedError(reason=f"The check of {task.name} could not be run once more: {why}")
    return status.result.exit_status == 0


def _is_roots(where: Paths) -> bool:
    """In its own namespace root may not enter what is the tool's user's; but it may ask systemd for a tool unit."""
    return os.geteuid() == 0 and (where.run / TOOL_SOCKET).exists()


def _in_a_unit(where: Paths, request: Request) -> tuple[EffectStatus, bytes]:
    effect = where.state_of("tool") / "effects" / request.effect_id
    units = Units(where.run / TOOL_SOCKET, ahead=0)
    try:
        units.launch(effect, request, {"summary": "the demo checks a claim once more"})
        return launcher.wait(effect, SECONDS + 10), read_output(effect)
    finally:
        units.close()
        shutil.rmtree(effect, ignore_errors=True)


def _in_bubblewrap(request: Request) -> tuple[EffectStatus, bytes]:
    with tempfile.TemporaryDirectory(prefix="selfware-evidence-") as directory:
        effect = launcher.prepare(Path(directory), request)
        launcher.launch(effect)
        return launcher.wait(effect, SECONDS + 10), read_output(effect)
