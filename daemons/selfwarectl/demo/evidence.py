"""Runs a task's check once more, in the same sandbox as any action: what was claimed must hold at the end."""

from __future__ import annotations

import tempfile
from pathlib import Path

from selfware_tool import launcher
from selfware_tool.effect import EffectState
from selfware_tool.request import Request
from selfwarectl.demo.demo_job import DemoTask

SECONDS = 120.0


def holds(workspace: Path, task: DemoTask) -> bool:
    """Whether the check of `task` passes on the workspace as it is now."""
    with tempfile.TemporaryDirectory(prefix="selfware-evidence-") as directory:
        action = {"run_command": {"argv": list(task.check), "timeout_seconds": SECONDS}}
        request = Request(f"evidence-{task.name}", action, str(workspace), launcher.python_home())
        effect = launcher.prepare(Path(directory), request)
        launcher.launch(effect)
        status = launcher.wait(effect, SECONDS + 10)
    return status.state is EffectState.DONE and status.result is not None and status.result.exit_status == 0
