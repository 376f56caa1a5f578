"""What a caller of selfware-inferenced can be told: one sentence each, and what to do next.

An engine that is absent, starting or was lost is no error of a request: that is engines.failures.EngineFailure, and
the request waits or begins again.
"""

from __future__ import annotations

import grpc

from selfware_common.errors import SelfwareError


class RequestInvalidError(SelfwareError):
    """Request {request_id} cannot be asked: {problem}."""

    status = grpc.StatusCode.INVALID_ARGUMENT
    exit_code = 2


class RequestRefusedError(SelfwareError):
    """The engine at {engine} refused the request: {reason}."""

    status = grpc.StatusCode.INVALID_ARGUMENT
    exit_code = 65  # EX_DATAERR
    hint = "Asking the same again would be refused again; change the request."


class ContextOverflowError(SelfwareError):
    """The request is longer than the context of the engine at {engine}: {reason}."""

    status = grpc.StatusCode.OUT_OF_RANGE
    exit_code = 65
    hint = "Send less text, or raise [llm] max_model_len and restart the engine."


class ModelUnknownError(SelfwareError):
    """The engine at {engine} does not serve {model}: {reason}."""

    status = grpc.StatusCode.FAILED_PRECONDITION
    exit_code = 78  # EX_CONFIG
    hint = "Compare [llm] model and base_url with what 'selfwarectl models ls' shows."


class KeyRefusedError(SelfwareError):
    """The engine at {engine} refused our key: {reason}."""

    status = grpc.StatusCode.FAILED_PRECONDITION
    exit_code = 77  # EX_NOPERM
    hint = "Put a valid key into the file that [llm] api_key_file names, then reload selfware-inferenced."


class NoStreamError(SelfwareError):
    """The engine at {engine} answered with {content_type} instead of a stream of events."""

    status = grpc.StatusCode.FAILED_PRECONDITION
    exit_code = 76  # EX_PROTOCOL
    hint = "Does [llm] base_url point at an OpenAI-compatible endpoint?"


class EngineKeepsFailingError(SelfwareError):
    """The engine at {engine} was lost {times} times during request {request_id}; the last time {reason}."""

    status = grpc.StatusCode.UNAVAILABLE
    exit_code = 69  # EX_UNAVAILABLE
    hint = "The engine's own log says why; 'selfwarectl models ls' shows whether it is up."


class DeadlineError(SelfwareError):
    """Request {request_id} ran out of its {seconds:.1f} s: {state}."""

    status = grpc.StatusCode.DEADLINE_EXCEEDED
    exit_code = 75  # EX_TEMPFAIL
    hint = "Give it more deadline_seconds or a higher priority, or look at 'selfwarectl queue'."


class QueueFullError(SelfwareError):
    """{waiting} requests wait already; more are not taken."""

    status = grpc.StatusCode.RESOURCE_EXHAUSTED
    exit_code = 75
    hint = "Try again later; 'selfwarectl queue' shows who waits."


class StoppingError(SelfwareError):
    """selfware-inferenced is stopping and let go of request {request_id}."""

    status = grpc.StatusCode.UNAVAILABLE
    exit_code = 75
    hint = "Ask again: it is served as soon as selfware-inferenced is back."
