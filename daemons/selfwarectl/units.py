"""`start` and `stop`: the whole suite on an installed machine, through systemd.

`start` also brings back what systemd had given up on. Where Selfware is not installed, 'make up' starts it.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import ClassVar

import click

from selfware_common import escalations, paths
from selfware_common.errors import SelfwareError
from selfwarectl import output
from selfwarectl.reach import FailedError

TARGET = "selfware.target"
EVERYTHING = ("selfware.target", "selfware-*.socket", "selfware-*.service")


class NotInstalledError(SelfwareError):
    """Selfware is not installed here as systemd units: {why}."""

    exit_code: ClassVar[int] = 4
    hint = "From a checkout, 'make up' starts the stack and Ctrl-C stops it."


@click.command()
@output.json_option
def start() -> None:
    """Start everything. What failed too often and was given up is forgiven and started again.

    \b
    Examples:
      sudo selfwarectl start
    """
    require_installed()
    systemctl("reset-failed", *EVERYTHING)
    escalations.clear(paths.system())
    systemctl("start", TARGET)
    _say("started")


@click.command()
@click.option("--now", is_flag=True, help="Do not wait for the last checkpoint; the journal is complete anyway.")
@output.json_option
def stop(now: bool) -> None:
    """Stop everything. The agent saves a last checkpoint; the next start goes on where it was.

    \b
    Examples:
      sudo selfwarectl stop
      sudo selfwarectl stop --now
    """
    require_installed()
    if now:
        systemctl("kill", "--signal=SIGKILL", "selfware-agent.service", quiet=True)
    # Not the target alone: that returns at once, and the daemons stop behind our back.
    systemctl("stop", *EVERYTHING)
    _say("stopped")


def _say(word: str) -> None:
    if output.wants_json():
        output.emit({"target": TARGET, "state": word})
    else:
        output.say(f"{TARGET} {word}")


def require_installed() -> None:
    """NotInstalledError where there are no units to command."""
    if paths.from_environment() != paths.system():
        raise NotInstalledError(why="this is a foreground stack")
    if not Path("/run/systemd/system").is_dir():
        raise NotInstalledError(why="systemd is not running")


def systemctl(*words: str, quiet: bool = False) -> None:
    """Run it; FailedError with what it said unless that is no matter."""
    done = subprocess.run(["systemctl", *words], check=False, capture_output=True, text=True)
    if done.returncode and not quiet:
        why = " ".join(done.stderr.split()) or "it failed"
        hint = " Try again with sudo." if os.geteuid() else ""
        raise FailedError(reason=f"systemctl {words[0]}: {why}{hint}")
