"""The errors of running an action that a person reads. Imported by daemons only: it pulls in grpc (60 ms)."""

from __future__ import annotations

import grpc

from selfware_common.errors import SelfwareError


class ActionRefusedError(SelfwareError):
    """The action cannot be run: {reason}"""

    status = grpc.StatusCode.INVALID_ARGUMENT
    exit_code = 65  # EX_DATAERR
    hint = "Propose it again in another form; nothing was run."


class UnsupportedActionError(ActionRefusedError):
    """This version does not run {kind} actions."""

    status = grpc.StatusCode.UNIMPLEMENTED
    exit_code = 69  # EX_UNAVAILABLE
    hint = "Nothing was run."


class EffectIdError(SelfwareError):
    """{effect_id} is not an effect id: it has 1 to 128 letters, digits, '-', '_' or '.', and begins with neither."""

    status = grpc.StatusCode.INVALID_ARGUMENT
    exit_code = 65


class EffectChangedError(SelfwareError):
    """Effect {effect_id} was already recorded with another request; an effect id never changes its meaning."""

    status = grpc.StatusCode.FAILED_PRECONDITION
    exit_code = 65
    hint = "Use a new effect id for a new action."


class SandboxUnavailableError(SelfwareError):
    """No sandbox can be made on this machine: {reason}"""

    status = grpc.StatusCode.FAILED_PRECONDITION
    exit_code = 69
    hint = "{hint} Actions are never run without a sandbox."
