"""The operator's HTTP API on a Unix socket: JSON in, JSON out, one handler per verb.

Who may connect is decided by the socket's permissions; who did is taken from the kernel (SO_PEERCRED) and recorded with
every decision. Text that came from the model appears only as JSON strings. An error is
{"error": {"sentence": …, "hint": …, "kind": …}} with the HTTP status that fits.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import orjson
from aiohttp import web

from selfware_common import sockets
from selfware_common.errors import SelfwareError
from selfware_common.sockets import Peer
from selfware_oversightd import audit
from selfware_oversightd.desk import Desk
from selfware_oversightd.errors import InvalidRequestError
from selfware_oversightd.ledger import Ledger
from selfware_oversightd.policy import Goal
from selfware_oversightd.records import Approval, Control, EffectRecord
from selfware_oversightd.restores import Restores

MAX_BODY_BYTES = 1024 * 1024
MAX_LISTED = 1000

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

_HTTP_STATUS: dict[grpc.StatusCode, tuple[int, str]] = {
    grpc.StatusCode.NOT_FOUND: (404, "not_found"),
    grpc.StatusCode.INVALID_ARGUMENT: (400, "invalid"),
    grpc.StatusCode.FAILED_PRECONDITION: (409, "conflict"),
    grpc.StatusCode.ALREADY_EXISTS: (409, "conflict"),
    grpc.StatusCode.RESOURCE_EXHAUSTED: (507, "disk_full"),
    grpc.StatusCode.UNAVAILABLE: (503, "unavailable"),
    grpc.StatusCode.PERMISSION_DENIED: (403, "refused"),
    grpc.StatusCode.DATA_LOSS: (500, "damaged"),
}
_KINDS = {404: "not_found", 405: "method_not_allowed", 413: "too_large"}


class OperatorApi:
    """Owns the listening socket of the operator."""

    def __init__(self, ledger: Ledger, desk: Desk, restores: Restores, report: Callable[[], dict[str, Any]]) -> None:
        """`report` says how the daemon is; see __main__."""
        self._ledger = ledger
        self._desk = desk
        self._restores = restores
        self._report = report
        self._runner: web.AppRunner | None = None

    async def start(self, path: Path) -> None:
        """Serve on systemd's socket where there is one, else bind (mode 0660); call while holding the instance lock."""
        application = web.Application(middlewares=[_sentences], client_max_size=MAX_BODY_BYTES)
        application.add_routes(self._routes())
        self._runner = web.AppRunner(application, access_log=None)
        await self._runner.setup()
        if (listening := sockets.inherited("operator")) is not None:
            await web.SockSite(self._runner, listening).start()
            return
        sockets.clear_stale(path)
        before = os.umask(0o117)
        try:
            await web.UnixSite(self._runner, str(path.absolute())).start()
        finally:
            os.umask(before)

    async def stop(self) -> None:
        """Refuse new calls, finish those in flight."""
        if self._runner is not None:
            await self._runner.cleanup()

    def _routes(self) -> list[web.RouteDef]:
        return [
            *(web.get(path, self._health) for path in ("/health", "/health/ready")),
            web.get("/health/live", self._live),
            web.get("/status", self._status),
            web.get("/metrics", self._metrics),
            web.get("/interventions", self._interventions),
            web.get("/interventions/{id}", self._intervention),
            web.post("/interventions/{id}/approve", self._approve),
            web.post("/interventions/{id}/reject", self._reject),
            web.get("/goals", self._goals),
            web.post("/goals", self._register_goal),
            web.post("/pause", self._pause),
            web.post("/resume", self._resume),
            web.post("/checkpoints/{id}/restore-begins", self._restore_begins),
            web.post("/checkpoints/{id}/restore", self._restore),
            web.post("/checkpoints/{id}/restore-ends", self._restore_ends),
            web.get("/audit", self._audit),
            web.get("/audit/verify", self._verify),
        ]

    async def _live(self, request: web.Request) -> web.Response:
        return _json({"status": "ok"})

    async def _health(self, request: web.Request) -> web.Response:
        report = self._report()
        told = {"status": report["health"], "sentence": report["sentence"], "components": report["components"]}
        return _json(told, 200 if _well(report) else 503)

    async def _status(self, request: web.Request) -> web.Response:
        return _json(self._report())

    async def _metrics(self, request: web.Request) -> web.Response:
        report = self._report()
        lines = [
            "# HELP selfware_oversight_effects_total Actions that ended, by how they ended.",
            "# TYPE selfware_oversight_effects_total counter",
            *(f'selfware_oversight_effects_total{{state="{name}"}} {n}' for name, n in report["ended"].items()),
        ]
        gauges = {
            "effects_running": ("Actions that run now.", len(report["running"])),
            "approvals_pending": ("Questions that wait for a person.", len(report["pending"])),
            "paused": ("1 while the operator holds everything back.", int(report["paused"])),
            "healthy": ("1 while decisions and outcomes can be recorded.", int(_well(report))),
        }
        for name, (why, value) in gauges.items():
            full = f"selfware_oversight_{name}"
            lines += [f"# HELP {full} {why}", f"# TYPE {full} gauge", f"{full} {value}"]
        return web.Response(text="\n".join(lines) + "\n", content_type="text/plain")

    async def _interventions(self, request: web.Request) -> web.Response:
        state = request.query.get("state", "pending")
        if state not in {"pending", "all"}:
            raise InvalidRequestError(problem=f"state is 'pending' or 'all', not {state!r}")
        found = self._desk.questions(pending_only=state == "pending", limit=MAX_LISTED)
        return _json({"interventions": [shown(approval, record) for approval, record in found]})

    async def _intervention(self, request: web.Request) -> web.Response:
        return _json(shown(*self._desk.question(request.match_info["id"])))

    async def _approve(self, request: web.Request) -> web.Response:
        body = await _body(request, digest=str)
        approval = self._desk.approve(request.match_info["id"], body.get("digest"), _peer(request))
        return _json(shown(*self._desk.question(approval.approval_id)))

    async def _reject(self, request: web.Request) -> web.Response:
        body = await _body(request, reason=str)
        approval = self._desk.reject(request.match_info["id"], body.get("reason", ""), _peer(request))
        return _json(shown(*self._desk.question(approval.approval_id)))

    async def _goals(self, request: web.Request) -> web.Response:
        return _json({"goals": [_shown_goal(goal) for goal in self._ledger.goals()]})

    async def _register_goal(self, request: web.Request) -> web.Response:
        body = await _body(request, goal_id=str, workspace=str, check=list, commit=bool)
        check = body.get("check", [])
        if not all(isinstance(word, str) and "\0" not in word for word in check):
            raise InvalidRequestError(problem="'check' must be a list of texts without NUL")
        for name in ("goal_id", "workspace"):
            if name not in body:
                raise InvalidRequestError(problem=f"'{name}' is missing")
        goal_id = body["goal_id"]
        new = self._desk.register_goal(goal_id, body["workspace"], check, body.get("commit", False), _peer(request))
        goal = self._ledger.goal(goal_id)
        assert goal is not None
        return _json(_shown_goal(goal), 201 if new else 200)

    async def _pause(self, request: web.Request) -> web.Response:
        body = await _body(request, reason=str)
        return _json(_shown_control(self._desk.pause(body.get("reason", ""), _peer(request))))

    async def _resume(self, request: web.Request) -> web.Response:
        body = await _body(request, give_up_restore=bool)
        give_up = body.get("give_up_restore", False)
        return _json(_shown_control(self._desk.resume(_peer(request), give_up_restore=give_up)))

    async def _restore_begins(self, request: web.Request) -> web.Response:
        body = await _body(request, undone_by=str)
        wanted, undone_by = request.match_info["id"], body.get("undone_by", "")
        return _json(_shown_control(self._desk.restore_begins(wanted, undone_by, _peer(request))))

    async def _restore(self, request: web.Request) -> web.Response:
        body = await _body(request, dry_run=bool, into=dict, files=bool)
        into, files = body.get("into", {}), body.get("files", True)
        if not all(isinstance(directory, str) for directory in into.values()):
            raise InvalidRequestError(problem="'into' must map workspaces to directories")
        dry_run = body.get("dry_run", False)
        wanted, peer = request.match_info["id"], _peer(request)
        done = await self._restores.restore(wanted, into, peer, dry_run=dry_run, files=files)
        return _json(done.shown())

    async def _restore_ends(self, request: web.Request) -> web.Response:
        body = await _body(request, given_up=bool, stay_paused=bool)
        given_up, stay_paused = body.get("given_up", False), body.get("stay_paused", False)
        wanted, peer = request.match_info["id"], _peer(request)
        control = self._desk.restore_ends(wanted, peer, given_up=given_up, stay_paused=stay_paused)
        return _json(_shown_control(control))

    async def _audit(self, request: web.Request) -> web.Response:
        text = request.query.get("limit", "100")
        if not (text.isascii() and text.isdigit() and len(text) <= 6 and 1 <= int(text) <= 100_000):
            raise InvalidRequestError(problem=f"limit is a number from 1 to 100000, not {text[:20]!r}")
        rows = audit.newest(self._ledger.connection, int(text))
        return _json({"rows": [row.shown() for row in rows]})

    async def _verify(self, request: web.Request) -> web.Response:
        found = await audit.verify(self._ledger.connection)
        intact = found.broken_row is None
        sentence = f"{found.rows} audit rows are intact" if intact else f"the audit trail is broken: {found.problem}"
        answer = {"ok": intact, "rows": found.rows, "head": found.head, "broken_row": found.broken_row}
        return _json({**answer, "sentence": sentence})


def shown(approval: Approval, record: EffectRecord) -> dict[str, Any]:
    """An intervention as people get it."""
    return {
        "id": approval.approval_id,
        "effect_id": approval.effect_id,
        "session_id": record.session_id,
        "task_id": record.task_id,
        "class": record.approval_class,
        "state": approval.state,
        "summary": record.summary,
        "digest": approval.digest,
        "canonical": record.canonical,
        "reason": record.reason,
        "rule": record.rule,
        "workspace": record.workspace,
        "effect_state": record.state,
        "note": approval.note,
        "created_unix_nanos": approval.created_unix_nanos,
        "expires_unix_nanos": approval.expires_unix_nanos,
        "decided_unix_nanos": approval.decided_unix_nanos,
        "decided_by_uid": approval.decided_by_uid,
        "decided_by_pid": approval.decided_by_pid,
    }


@web.middleware
async def _sentences(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Errors of ours, and aiohttp's own, in the one form."""
    try:
        return await handler(request)
    except SelfwareError as error:
        status, kind = _HTTP_STATUS.get(error.status, (500, "internal"))
        return _error(status, kind, error.sentence, error.advice)
    except web.HTTPException as error:
        kind = _KINDS.get(error.status, "invalid")
        return _error(error.status, kind, f"{request.method} {request.path}: {error.reason}", "")


async def _body(request: web.Request, **known: type) -> dict[str, Any]:
    """The JSON object in the request, checked; nothing at all means {}."""
    data = await request.read()
    try:
        body = orjson.loads(data) if data.strip() else {}
    except orjson.JSONDecodeError as error:
        raise InvalidRequestError(problem=f"the body is not JSON: {error}") from error
    if not isinstance(body, dict):
        raise InvalidRequestError(problem="the body must be a JSON object")
    for name, value in body.items():
        if name not in known:
            raise InvalidRequestError(problem=f"unknown field {name!r}; known here: {', '.join(known) or 'none'}")
        if value is not None and not isinstance(value, known[name]):
            raise InvalidRequestError(problem=f"'{name}' must be of type {known[name].__name__}")
    return {name: value for name, value in body.items() if value is not None}


def _peer(request: web.Request) -> Peer:
    transport = request.transport
    connection = transport.get_extra_info("socket") if transport is not None else None
    if connection is None:
        raise InvalidRequestError(problem="the connection is gone, so nobody knows who decides")
    return sockets.peer_of(connection)


def _well(report: dict[str, Any]) -> bool:
    return bool(report["health"] == "ok")


def _shown_control(control: Control) -> dict[str, Any]:
    return {
        "paused": control.still,
        "reason": control.why,
        "restoring": control.restoring,
        "undone_by": control.undone_by,
    }


def _shown_goal(goal: Goal) -> dict[str, Any]:
    return {
        "goal_id": goal.goal_id,
        "workspace": goal.workspace,
        "check": list(goal.check),
        "commit": goal.commit,
        "created_unix_nanos": goal.created_unix_nanos,
    }


def _json(value: dict[str, Any], status: int = 200) -> web.Response:
    return web.Response(body=orjson.dumps(value), status=status, content_type="application/json")


def _error(status: int, kind: str, sentence: str, hint: str) -> web.Response:
    return _json({"error": {"sentence": sentence, "hint": hint, "kind": kind}}, status)
