"""Wiring: ledger, tools, effects, desk, the agent's socket and the operator's."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from typing import TYPE_CHECKING, Any, ClassVar

import selfware_common
from selfware_common.daemon import Daemon, run
from selfware_common.errors import DiskFullError
from selfware_common.health import Check, room
from selfware_common.rpc import oversight_pb2_grpc
from selfware_common.rpcserver import Register
from selfware_oversightd import approvals
from selfware_oversightd.captures import Captures
from selfware_oversightd.config import asking_of, longest_action_seconds, rules_of
from selfware_oversightd.desk import Desk
from selfware_oversightd.effects import RETRY_SECONDS, Effects
from selfware_oversightd.keepers import Keepers
from selfware_oversightd.ledger import Ledger
from selfware_oversightd.records import Approval, State
from selfware_oversightd.restores import Restores
from selfware_oversightd.service import SERVICE_NAME, OversightService
from selfware_oversightd.tools import Tools

if TYPE_CHECKING:
    from selfware_oversightd.operator_api import OperatorApi

IDLE_SECONDS = 30.0
RUNNING_SECONDS = 10.0  # how often a long action is mentioned
LEAST_BYTES, LEAST_FILES = 16 * 2**20, 64  # the output and the books of the actions under way
GATHER_SECONDS = 0.5  # changes that come close together make one sentence


class Oversightd(Daemon):
    """selfware-oversightd."""

    name: ClassVar[str] = "oversightd"
    idea: ClassVar[str] = "decides whether an action may happen, and makes it happen exactly once"
    socket_name: ClassVar[str] = "agent.sock"

    async def open(self) -> None:
        """Open the ledger and go on with what was begun."""
        state = self.paths.state_of(self.name)
        self._ledger = Ledger(state / "ledger.sqlite")
        self._tools = Tools(self.paths)
        self._tools.longest_seconds = longest_action_seconds(self.settings)
        self._effects = Effects(self._ledger, self._tools, asking_of(self.settings))
        self._desk = Desk(self._ledger, self._effects, self.paths)
        keepers = Keepers(self._tools, self.paths)
        self._captures = Captures(
            self._ledger, self._effects, keepers, self.paths, lambda: self.settings.resources.quotas.max_checkpoint_size
        )
        self._restores = Restores(self._ledger, self._effects, keepers, self.paths, self._captures.turn)
        self._rules = rules_of(self.settings)
        self._effects.recover()
        self._api = _operator_api()(self._ledger, self._desk, self._restores, self.report)
        await self._api.start(self.paths.socket_of(self.name, "operator.sock"))
        self._farewell = asyncio.get_running_loop().create_task(self._hang_up_on_stop())

    async def close(self) -> None:
        self._farewell.cancel()
        await self._restores.close()
        await self._captures.close()
        await self._api.stop()
        await self._effects.close()
        self._tools.close()
        self._ledger.close()

    async def reloaded(self) -> None:
        self._rules = rules_of(self.settings)
        self._effects.asking = asking_of(self.settings)
        self._tools.longest_seconds = longest_action_seconds(self.settings)

    def services(self) -> tuple[list[str], list[Register]]:
        service = OversightService(self._ledger, self._effects, self._desk, self._captures, lambda: self._rules)
        return [SERVICE_NAME], [
            lambda server: oversight_pb2_grpc.add_OversightServicer_to_server(service, server)  # type: ignore[no-untyped-call,unused-ignore]
        ]

    async def cycle(self) -> str:
        """Wait until something happened or is due; do what is due; say how things stand."""
        await self.wait_or_stop(self._seconds_until_due(), self._effects.watchers.changed)
        if self._effects.watchers.changed.is_set():
            self._effects.watchers.changed.clear()
            await self.wait_or_stop(GATHER_SECONDS)
        if self._effects.defect is not None:
            raise self._effects.defect
        if self._ledger.failed is not None:
            raise self._ledger.failed
        try:
            self._effects.turn()
        except DiskFullError as error:
            await self.wait_or_stop(RETRY_SECONDS)
            return str(error)
        return self._sentence()

    def checks(self) -> list[Check]:
        return [
            room(self.paths.state_of(self.name), LEAST_BYTES, LEAST_FILES),
            Check("sandbox", self._look_at_sandbox),
        ]

    def facts(self) -> dict[str, str]:
        ended = {f"effects_{state}": str(count) for state, count in sorted(self._effects.ended.items())}
        return {
            **ended,
            "effects_running": str(len(self._effects.running)),
            "approvals_pending": str(len(approvals.pending(self._ledger.connection))),
            "paused": str(self._ledger.control().still).lower(),
            "sandbox": self._tools.sandbox.sentence,
        }

    def report(self) -> dict[str, Any]:
        """What GET /status answers."""
        control = self._ledger.control()
        return {
            "name": f"selfware-{self.name}",
            "version": selfware_common.__version__,
            "pid": os.getpid(),
            "started_unix_nanos": self.started_unix_nanos,
            "health": "stopping" if self.stopping.is_set() else "degraded" if self._hindrance() else "ok",
            "components": {one.name: one.state for one in self.health.components.values()},
            "sentence": self._sentence(),
            "paused": control.still,
            "pause_reason": control.why,
            "restoring": control.restoring,
            "running": list(self._effects.running),
            "pending": [question.approval_id for question in approvals.pending(self._ledger.connection)],
            "ended": {str(state): count for state, count in sorted(self._effects.ended.items())},
        }

    async def _look_at_sandbox(self) -> str:
        return "" if self._tools.sandbox.available else self._tools.sandbox.sentence

    async def _hang_up_on_stop(self) -> None:
        await self.stopping.wait()
        self._effects.watchers.hang_up()

    def _seconds_until_due(self) -> float:
        due = [RUNNING_SECONDS if self._effects.running else IDLE_SECONDS]
        if (retry_seconds := self._effects.next_retry_seconds()) is not None:
            due.append(retry_seconds)
        for question in approvals.pending(self._ledger.connection):
            due.append((question.expires_unix_nanos - time.time_ns()) / 1e9 + 0.01)
        return max(0.0, min(due))

    def _hindrance(self) -> str:
        """What keeps us from working, or ''."""
        if not self._tools.sandbox.available:
            return f"no sandbox: {self._tools.sandbox.sentence}"
        return next((f"{name} waits: {error.sentence}" for name, error in self._effects.trouble.items()), "")

    def _sentence(self) -> str:
        if hindrance := self._hindrance():
            return hindrance
        pending = approvals.pending(self._ledger.connection)
        if pending:
            return self._question(pending[0]) + (f" and {len(pending) - 1} more" if len(pending) > 1 else "")
        if (control := self._ledger.control()).restoring:
            return f"a restore to {control.restoring} is under way"
        if control.paused:
            return f"paused by the operator: {control.reason or 'no reason given'}"
        if self._effects.running:
            record = next(iter(self._effects.running.values()))
            return f"running {record.effect_id} for {(time.time_ns() - record.intent_unix_nanos) // 10**9} s"
        return f"idle: {self._effects.ended[State.DONE]} actions done, 0 waiting"

    def _question(self, approval: Approval) -> str:
        record = self._ledger.effect(approval.effect_id)
        assert record is not None
        return f"waiting for approval {approval.approval_id}: {record.summary}"


def _operator_api() -> type[OperatorApi]:
    """Imported without the web's certificates: aiohttp reads them all, 80 ms of every restart, and we never use TLS."""
    given = os.environ.get("SSL_CERT_FILE")
    os.environ["SSL_CERT_FILE"] = os.devnull
    try:
        from selfware_oversightd.operator_api import OperatorApi
    finally:
        del os.environ["SSL_CERT_FILE"]
        if given is not None:
            os.environ["SSL_CERT_FILE"] = given
    return OperatorApi


def main() -> None:
    """The program selfware-oversightd."""
    sys.exit(run(Oversightd))


if __name__ == "__main__":
    main()
