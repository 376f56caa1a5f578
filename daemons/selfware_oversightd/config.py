"""What selfware.toml and the directory layout mean for oversight: rules, timeouts, forbidden places."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path

import selfware_common
from selfware_common.paths import Paths
from selfware_common.settings import Settings
from selfware_oversightd.policy import Rules
from selfware_tool.refusal import RefusalError
from selfware_tool.request import Limits
from selfware_tool.sandbox import is_within

KEPT_OUTPUT_BYTES = 64 * 1024  # head and tail of what an action printed
WORKSPACES = "workspaces"  # the one place in the state directory where a workspace may lie


@dataclass(frozen=True)
class Asking:
    """How long a question stands, and what silence means."""

    timeout_seconds: float
    reject_on_timeout: bool


def rules_of(settings: Settings) -> Rules:
    """The operator's lists."""
    policy = settings.intervention.policy
    return Rules(
        auto_reject=policy.auto_reject.patterns,
        require_approval=policy.require_approval.patterns,
        auto_approve=policy.auto_approve.patterns,
        may_ask=settings.intervention.enabled,
    )


def asking_of(settings: Settings) -> Asking:
    """The operator's patience."""
    intervention = settings.intervention
    return Asking(intervention.default_timeout_seconds, intervention.policy.default_on_timeout == "Reject")


def longest_action_seconds(settings: Settings) -> float:
    """What no action may exceed: the operator's limit for a check, if that is more than the usual."""
    return max(Limits().timeout_seconds, settings.agent.check_timeout_seconds)


def forbidden_places(where: Paths, workspace: str) -> tuple[str, ...]:
    """What neither a workspace nor an action may see: our own state, sockets and configuration."""
    places = [str(where.run.absolute()), str(where.config.absolute())]
    allowed = os.path.realpath(where.state / WORKSPACES)
    if not os.path.realpath(workspace).startswith(allowed + os.sep):
        places.append(str(where.state.absolute()))
    return tuple(places)


def require_not_ourselves(workspace: str) -> None:
    """Raise RefusalError if an action there could change the program that the next restart runs."""
    code = Path(__file__).resolve().parents[1], Path(selfware_common.__file__).resolve().parent
    for place in (*map(str, code), os.path.realpath(sys.prefix)):
        if is_within(place, workspace) or is_within(workspace, place):
            raise RefusalError(f"workspace {workspace} would let actions change Selfware's own program in {place}")
