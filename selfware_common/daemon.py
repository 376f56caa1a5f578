"""The one skeleton that all daemons share.

config -> log -> lock -> open (recover own state) -> sockets -> READY=1 -> cycle, cycle, cycle -> STOPPING=1 -> close.

A cycle does one round of the daemon's work and returns one English sentence: it is the STATUS= in `systemctl status`,
the journal line, and what tests assert. WATCHDOG=1 is sent when a cycle returned, or from `progress()` which the
working code calls on real progress (a token, a chunk); never from a helper thread, so a wedged worker is noticed.
What each daemon lists as checks (health.py) is looked at between two cycles.
SIGHUP reloads the configuration, SIGTERM and SIGINT stop politely. Outside systemd it is silent about notify.
"""

from __future__ import annotations

import argparse
import asyncio
import faulthandler
import logging
import os
import signal
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

from selfware_common import __version__, log, paths, settings
from selfware_common.errors import DiskFullError, SelfwareError
from selfware_common.health import Check, Finding, Health, State
from selfware_common.notify import Notifier
from selfware_common.rpc import daemon_pb2, daemon_pb2_grpc
from selfware_common.rpcserver import Register, RpcServer, StatusService
from selfware_common.sockets import NO_SPACE, InstanceLock


class Daemon(ABC):
    """Subclass it, set `name`, implement `cycle`; override the other hooks as needed."""

    name: ClassVar[str]  # short: "agent"; unit, import and log identifier follow from it
    idea: ClassVar[str] = ""  # one line for --help
    socket_name: ClassVar[str] = "api.sock"
    quiet_repeats: ClassVar[bool] = True  # the same sentence again is not logged again

    def __init__(self, where: paths.Paths, config: settings.Settings) -> None:
        self.paths = where
        self.settings = config
        self.log = logging.getLogger(f"selfware-{self.name}")
        self.started_unix_nanos = time.time_ns()
        self.sentence = "starting"
        self.sentence_unix_nanos = time.time_ns()
        self.stopping = asyncio.Event()
        self.notifier = Notifier()
        self.health = Health((), config.supervision.health_check)

    # What a daemon provides.

    @abstractmethod
    async def cycle(self) -> str:
        """One round of work; the returned sentence becomes STATUS= and a journal line. Must not return in a hot
        loop: wait for something to do (use `wait_or_stop`), but at least once per watchdog interval come round."""

    async def open(self) -> None:  # noqa: B027 - a hook
        """Recover own state before READY=1; raise a SelfwareError to refuse to start."""

    async def close(self) -> None:  # noqa: B027 - a hook
        """Save what must be saved; called once on a polite stop, after the server refuses new calls."""

    async def reloaded(self) -> None:  # noqa: B027 - a hook
        """self.settings is new."""

    def services(self) -> tuple[list[str], list[Register]]:
        """Full names of the offered gRPC services and the functions that register them."""
        return [], []

    def checks(self) -> list[Check]:
        """The parts that are looked at on their own; asked once, after open()."""
        return []

    def facts(self) -> dict[str, str]:
        """Small numbers for `selfwarectl status`."""
        return {}

    def about(self) -> dict[str, str]:
        """What the current sentence is about: SELFWARE_* fields of its journal line, by name ("task_id")."""
        return {}

    def grace_seconds(self) -> float:
        """How long calls in flight may take on stop."""
        return 2.0

    # What a daemon uses.

    def progress(self, sentence: str | None = None) -> None:
        """Real progress inside a long cycle: pets the watchdog."""
        if sentence is not None:
            self._say(sentence)
        self.notifier.alive(self.sentence)

    async def wait_or_stop(self, seconds: float, *events: asyncio.Event) -> None:
        """Sleep until one of the events, the stop, or the time, or until a check is due; whichever is first."""
        limit = self.notifier.watchdog_seconds
        seconds = min(seconds, limit / 3 if limit else seconds, self.health.seconds_until_due())
        waits = [asyncio.ensure_future(event.wait()) for event in (self.stopping, *events)]
        try:
            await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()

    def describe(self) -> daemon_pb2.StatusReply:
        """The answer to selfware.daemon.v1.Daemon/Status."""
        return daemon_pb2.StatusReply(
            name=f"selfware-{self.name}",
            version=__version__,
            pid=os.getpid(),
            started_unix_nanos=self.started_unix_nanos,
            sentence=self.sentence,
            sentence_unix_nanos=self.sentence_unix_nanos,
            facts=self.facts(),
            health=self.health.state,
            components=[
                daemon_pb2.Component(
                    name=one.name, state=one.state, severity=one.severity, reason=one.reason,
                    failures=one.failures, since_unix_nanos=one.since_unix_nanos,
                )
                for one in self.health.components.values()
            ],
        )  # fmt: skip

    # The life of the process.

    async def live(self) -> None:
        """From the lock to the last save; raises SelfwareError when it cannot start or must not go on."""
        lock = InstanceLock(self.paths.run / self.name, f"selfware-{self.name}")
        try:
            self._make_state_directory()
            await self.open()
            self.health = Health(self.checks(), self.settings.supervision.health_check)
            names, registrations = self.services()
            server = RpcServer(
                self.paths.socket_of(self.name, self.socket_name), names, [*registrations, self._register_status]
            )
            if await server.start():
                self.log.info("removed the stale socket of a process that was killed")
            self._install_signals()
            self._server = server
            await server.set_serving(True)
            for component in self.health.components:
                await server.set_component(component, True)
            self._say("ready")
            self.notifier.ready(self.sentence)
            try:
                await self._cycles()
            finally:
                await self._stop(server)
        finally:
            self.notifier.close()
            lock.close()

    async def _cycles(self) -> None:
        while not self.stopping.is_set():
            self._say(await self.cycle())
            self.notifier.alive(self.sentence)
            for finding in await self.health.look():
                await self._tell(finding)
            await asyncio.sleep(0)

    async def _tell(self, finding: Finding) -> None:
        well, sick = finding.component.state is State.HEALTHY, finding.component.state is State.UNHEALTHY
        about = log.fields(component=finding.component.name, **finding.check.fields)
        if sick:
            about = log.event(finding.check.event, component=finding.component.name, **finding.check.fields)
        self.log.log(logging.INFO if well else logging.WARNING, "%s", finding.sentence, extra=about)
        await self._server.set_component(finding.component.name, not sick)

    async def _stop(self, server: RpcServer) -> None:
        self._say("stopping")
        self.notifier.stopping(self.sentence)
        await server.set_serving(False)
        await server.stop(self.grace_seconds())
        await self.close()
        self._say("stopped")

    def _say(self, sentence: str) -> None:
        repeated = sentence == self.sentence and self.quiet_repeats
        self.sentence = sentence
        if not repeated:
            self.log.info("%s", sentence, extra=log.fields(**self.about()))
        self.sentence_unix_nanos = time.time_ns()

    def _make_state_directory(self) -> None:
        path = self.paths.state_of(self.name)
        try:
            path.mkdir(parents=True, exist_ok=True, mode=0o750)
        except OSError as error:
            if error.errno in NO_SPACE:
                raise DiskFullError(what=f"the state of selfware-{self.name}", path=path.parent) from error
            raise

    def _register_status(self, server: object) -> None:
        daemon_pb2_grpc.add_DaemonServicer_to_server(StatusService(self.describe), server)  # type: ignore[no-untyped-call,arg-type,unused-ignore]

    def _install_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stopping.set)
        self._reloads: set[asyncio.Task[None]] = set()
        loop.add_signal_handler(signal.SIGHUP, self._begin_reload)

    def _begin_reload(self) -> None:
        task = asyncio.get_running_loop().create_task(self._reload())
        self._reloads.add(task)
        task.add_done_callback(self._reloads.discard)

    async def _reload(self) -> None:
        self.notifier.reloading()
        try:
            self.settings = settings.load(self.paths.config_file)
            self.health.defaults = self.settings.supervision.health_check
            await self.reloaded()
            self.log.info("configuration reloaded")
        except SelfwareError as error:
            self.log.error("kept the old configuration: %s", error)
        self.notifier.ready(self.sentence)


def run(kind: type[Daemon], arguments: Sequence[str] | None = None) -> int:
    """Start `kind` from the command line and return the exit status. The only place with a broad except: here an
    unknown state ends the process, the supervisor restarts it, and checkpointd remembers."""
    parser = argparse.ArgumentParser(prog=f"selfware-{kind.name}", description=kind.idea)
    parser.add_argument("--version", action="version", version=f"selfware-{kind.name} {__version__}")
    parser.parse_args(arguments)
    faulthandler.enable()
    where = paths.from_environment()
    try:
        config = settings.load(where.config_file)
        log.setup(f"selfware-{kind.name}", config.observability.logging.level)
        asyncio.run(_live(kind, where, config))
    except SelfwareError as error:
        _last_words(kind, str(error))
        return error.exit_code
    except OSError as error:
        if error.errno in NO_SPACE:
            full = DiskFullError(what=f"selfware-{kind.name}", path=error.filename or where.state)
            _last_words(kind, str(full))
            return full.exit_code
        _last_words(kind, f"{error.strerror or error}: {error.filename or 'unknown file'}")
        return 71  # EX_OSERR
    except Exception:  # the process edge
        logging.getLogger(f"selfware-{kind.name}").exception("stopped by a defect; state is safe in checkpointd")
        return 70
    return 0


async def _live(kind: type[Daemon], where: paths.Paths, config: settings.Settings) -> None:
    await kind(where, config).live()


def _last_words(kind: type[Daemon], sentence: str) -> None:
    logger = logging.getLogger(f"selfware-{kind.name}")
    if logging.getLogger().handlers:
        logger.error("%s", sentence)
    else:
        sys.stderr.write(f"selfware-{kind.name}: {sentence}\n")
