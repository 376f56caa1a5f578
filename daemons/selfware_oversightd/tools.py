"""Runs one effect of the ledger through the tool runner, or finds it again after we were killed.

Everything that makes a repeat harmless lies in the effect directory (the runner's lock, its O_EXCL `started`); this is
the bridge to it: ledger record in, outcome out. Owns the effect directories' beginning and removal, never their
content.
"""

from __future__ import annotations

import errno
import os
import shutil
import socket
import subprocess
from contextlib import suppress
from pathlib import Path

import orjson

from selfware_common.errors import DiskFullError
from selfware_common.paths import Paths
from selfware_oversightd.config import KEPT_OUTPUT_BYTES, forbidden_places
from selfware_oversightd.errors import ToolFailedError
from selfware_oversightd.records import EffectRecord, Outcome, State
from selfware_tool import launcher
from selfware_tool.effect import EffectPaths, EffectState, EffectStatus, inspect, read_output
from selfware_tool.errors import ActionRefusedError, EffectChangedError
from selfware_tool.probe import Probe, probe
from selfware_tool.request import Limits, Request
from selfware_tool.units import Units

MAX_LAUNCHES = 3
TOOL_SOCKET = "tool.sock"  # systemd listens there: selfware-tool.socket
ROOM_BYTES = 512 * 1024  # an action begins only where its output and its result will find room
ROOM_FILES = 16


class Tools:
    """The tool runner as this daemon uses it."""

    def __init__(self, where: Paths) -> None:
        """Looks for the sandbox; one that is missing now is looked for again when it is needed."""
        self._where = where
        self.longest_seconds = Limits().timeout_seconds
        self._python = launcher.python_home()
        socket_path = where.run / TOOL_SOCKET
        self._units = Units(socket_path) if socket_path.exists() else None
        self.effects = where.state_of("oversightd" if self._units is None else "tool") / "effects"
        self.sandbox: Probe = self._probe()

    def require_sandbox(self) -> None:
        """Raises SandboxUnavailableError."""
        if not self.sandbox.available:
            self.sandbox = self._probe()
        self.sandbox.require()

    def get_ready(self) -> None:
        """Have a sandbox wait for the next action, where that can be; trouble shows when the action comes."""
        if self._units is not None:
            with suppress(OSError):
                self._units.prepare_ahead()

    def keeper(self) -> socket.socket | None:
        """A connection to a tool unit that takes a keeper's message; None where there are no units. OSError."""
        return self._units.connection() if self._units is not None else None

    def close(self) -> None:
        """Let go of what waits; what runs goes on."""
        if self._units is not None:
            self._units.close()

    def require_room(self, effect_id: str) -> None:
        """Raises DiskFullError: an action whose end could not be recorded would be one of unknown outcome."""
        room = os.statvfs(self._where.state_of("oversightd"))
        if room.f_bavail * room.f_frsize < ROOM_BYTES or (room.f_files and room.f_favail < ROOM_FILES):
            raise DiskFullError(what=f"the action {effect_id}", path=self.effects)

    def problem(self, record: EffectRecord) -> str:
        """Why it can never be run as it is, or ''."""
        try:
            launcher.check(self._request(record))
        except ActionRefusedError as error:
            return error.sentence
        return ""

    async def run(self, record: EffectRecord) -> Outcome:
        """Start it, or find it running or ended, and say how it ended. Harmless to repeat."""
        directory = self.effects / record.effect_id
        for _ in range(MAX_LAUNCHES):
            if inspect(directory).state is EffectState.NOT_STARTED:
                self.require_sandbox()
                self.require_room(record.effect_id)
                try:
                    self._start(record)
                except ActionRefusedError as error:
                    return Outcome(State.REFUSED, f"not run: {error.sentence}")
            status = await launcher.wait_async(directory)
            self.get_ready()
            if status.state is not EffectState.NOT_STARTED:
                return _outcome(directory, status)
        log = Path(EffectPaths(str(directory)).runner_log)
        said = log.read_text("utf-8", "replace").strip().splitlines()[-1:] if log.exists() else []
        raise ToolFailedError(effect_id=record.effect_id, reason=said[0] if said else "it ended before it began")

    def remove(self, effect_id: str) -> None:
        """Its result is in the ledger."""
        shutil.rmtree(self.effects / effect_id, ignore_errors=True)

    def left_over(self) -> list[str]:
        """Effects that still have a directory."""
        return sorted(path.name for path in self.effects.iterdir()) if self.effects.is_dir() else []

    def _start(self, record: EffectRecord) -> None:
        request = self._request(record)
        try:
            if self._units is None:
                launcher.launch(self._prepare(request))
                return
            labels = {"task_id": record.task_id, "session_id": record.session_id, "summary": record.summary}
            self._units.launch(self.effects / record.effect_id, request, labels)
        except OSError as error:
            if error.errno in {errno.ENOSPC, errno.EDQUOT}:
                raise DiskFullError(what=f"the action {record.effect_id}", path=self.effects) from error
            raise ToolFailedError(effect_id=record.effect_id, reason=error.strerror or str(error)) from error
        except subprocess.CalledProcessError as error:
            raise ToolFailedError(effect_id=record.effect_id, reason=str(error)) from error

    def _probe(self) -> Probe:
        return probe() if self._units is None else self._units.probe()

    def _prepare(self, request: Request) -> Path:
        try:
            return launcher.prepare(self.effects, request)
        except EffectChangedError:
            # The action is the same, by its digest; Selfware or its Python moved since the request was written.
            Path(EffectPaths(str(self.effects / request.effect_id)).request).unlink()
            return launcher.prepare(self.effects, request)

    def _request(self, record: EffectRecord) -> Request:
        return Request(
            effect_id=record.effect_id,
            action=orjson.loads(record.canonical),
            workspace=record.workspace,
            python=self._python,
            limits=Limits(
                timeout_seconds=self.longest_seconds,
                cpu_seconds=max(Limits().cpu_seconds, int(self.longest_seconds) + 1),
                output_bytes=KEPT_OUTPUT_BYTES,
            ),
            features=self.sandbox.features,
            forbidden=forbidden_places(self._where, record.workspace),
        )


def _outcome(directory: Path, status: EffectStatus) -> Outcome:
    output = read_output(directory)
    text = output.decode("utf-8", "replace")
    result = status.result
    if result is None:
        sentence = f"outcome unknown: {status.sentence}; not repeated"
        return Outcome(State.UNKNOWN, sentence, output=text, output_bytes=len(output))
    return Outcome(
        state=State.DONE if result.ran else State.REFUSED,
        sentence=result.sentence,
        ok=result.ok,
        exit_status=-result.signal if result.signal else result.exit_status,
        timed_out=result.timed_out,
        output=text,
        output_bytes=result.output_bytes,
        seconds=result.seconds,
    )
