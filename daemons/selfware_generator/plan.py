"""What selfware.toml means to systemd: settings in, drop-ins out. Pure.

Everything that goes into a unit is a number that was checked here or a constant of this file, the model's name,
escaped, plain paths, and the names of credentials that are ours: no value can become a directive of its own.
"""

from __future__ import annotations

import math
import re
from pathlib import Path

from selfware_common.errors import ConfigError
from selfware_common.settings import Settings
from selfware_generator import credentials
from selfware_generator.backoff import Delays
from selfware_generator.names import engine_unit

START_ORDER = ("checkpointd", "resourced", "oversightd", "inferenced", "agent")
"""Never against the After= of the shipped units, so that no strategy can make an ordering cycle."""
KEEPERS = ("agent", "checkpointd", "oversightd")
"""Those with something to save when they stop."""
KEEPER = "selfware-checkpointd.service"
NONE_FOUND: credentials.Found = {}

DROP_IN = "50-selfware-toml.conf"
BACKOFF = "/usr/lib/selfware/bin/selfware-backoff"
OWN_ENGINES = ("embedded", "llamacpp", "vllm")

# As in the shipped units.
START_SECONDS = 90
ENGINE_START_SECONDS = 300
ENGINE_RESTARTS = 10
ENGINE_WINDOW_SECONDS = 300

VLLM_START_SECONDS = 1800
STOP_MARGIN_SECONDS = 15
RUNTIME_MARGIN_SECONDS = 600
LONGEST_SECONDS = 10 * 365 * 86400.0
MOST_RESTARTS = 10_000

PLAIN_PATH = re.compile(r"/[A-Za-z0-9._/-]*")

Plan = dict[str, str]


def plan(settings: Settings, source: Path, found: credentials.Found = NONE_FOUND) -> Plan:
    """Path of each drop-in below the generator's directory, and its text; `source` is named in it, and `found` is what
    credentials.py found. Raises ConfigError for what systemd cannot hold."""
    numbers = _Numbers(settings, source)
    engine = _wanted_engine(settings, source)
    files = {f"selfware-{daemon}.service": _daemon(daemon, settings, numbers, engine) for daemon in START_ORDER}
    files[KEEPER] += _lines(_opened(settings, numbers, found))
    files["selfware-engine@.service"] = _engine(settings, numbers)
    if engine:
        files["selfware.target"] = f"[Unit]\nWants={engine}\n"
    return {_path(unit): _header(source) + text for unit, text in files.items()}


def fallback(found: credentials.Found = NONE_FOUND) -> Plan:
    """When the settings cannot be read: the shipped units as they are, the engine of the default model, and the keys of
    the store: whoever mends the file may only restart."""
    engine = engine_unit(Settings().llm.model)
    why = "# Written by selfware-generator: selfware.toml could not be used, its error is in the journal.\n"
    files = {_path("selfware.target"): f"{why}[Unit]\nWants={engine}\n"}
    if lines := credentials.keys(found):
        files[_path(KEEPER)] = f"{why}[Service]\n{_lines(lines)}"
    return files


class _Numbers:
    """The settings of [supervision] and [system] in milliseconds, proved to be numbers that systemd takes."""

    def __init__(self, settings: Settings, source: Path) -> None:
        self._source = source
        supervision, system = settings.supervision, settings.system
        backoff, health = supervision.backoff_strategy, supervision.health_check
        self.delays = Delays(
            backoff.type,
            self._ms("supervision.backoff_strategy.base_seconds", backoff.base_seconds),
            self._ms("supervision.backoff_strategy.max_seconds", backoff.max_seconds),
        )
        self.restarts = supervision.max_restarts
        self._at_most("supervision.max_restarts", self.restarts, MOST_RESTARTS)
        self.window_ms = self._ms("supervision.max_seconds", supervision.max_seconds)
        interval = "supervision.health_check.interval_seconds"
        self._ms(interval, health.interval_seconds)
        self._at_most("supervision.health_check.failure_threshold", health.failure_threshold, LONGEST_SECONDS)
        self.watchdog_ms = self._ms(
            f"{interval} * failure_threshold", health.interval_seconds * health.failure_threshold
        )
        self.grace_ms = self._ms("system.shutdown_grace_period_seconds", system.shutdown_grace_period_seconds)
        self.runtime_ms = self._ms("system.max_runtime_hours", system.max_runtime_hours, unit_seconds=3600)

    def is_plain_path(self, key: str, value: str) -> None:
        """A path that systemd cannot read in another way."""
        if not PLAIN_PATH.fullmatch(value) or ".." in value:
            problem = f"'{key}' must be an absolute path of letters, digits, '.', '_', '-' and '/'"
            raise ConfigError(path=self._source, problem=problem)

    def _ms(self, key: str, value: float, unit_seconds: int = 1) -> int:
        if not math.isfinite(value):
            raise ConfigError(path=self._source, problem=f"'{key}' is {value}, but must be a finite number")
        self._at_most(key, value, LONGEST_SECONDS / unit_seconds)
        return round(value * unit_seconds * 1000)

    def _at_most(self, key: str, value: float, limit: float) -> None:
        if value > limit:
            raise ConfigError(path=self._source, problem=f"'{key}' is {value}, but must be at most {limit:.0f}")


def _daemon(daemon: str, settings: Settings, numbers: _Numbers, engine: str | None) -> str:
    window_ms = numbers.window_ms + numbers.delays.sum_ms(numbers.restarts)
    unit = _coupling(daemon, settings.supervision.strategy)
    if daemon == "inferenced" and engine:
        unit += [f"Wants={engine}"]  # no After=: a model that loads is a state to wait in, for a request and not for us
    unit += [f"StartLimitIntervalSec={_seconds(window_ms)}", f"StartLimitBurst={numbers.restarts}"]
    service = [f"WatchdogSec={_seconds(numbers.watchdog_ms)}", _start_limit(START_SECONDS, numbers.delays)]
    if daemon in KEEPERS:
        service.append(f"TimeoutStopSec={_seconds(numbers.grace_ms + STOP_MARGIN_SECONDS * 1000)}")
    if daemon == "agent":
        backstop_ms = numbers.runtime_ms + numbers.grace_ms + RUNTIME_MARGIN_SECONDS * 1000
        service.append(f"RuntimeMaxSec={_seconds(backstop_ms)}")
    return _text(unit, service + _waiting(numbers.delays, f"/run/selfware/{daemon}/backoff"))


def _opened(settings: Settings, numbers: _Numbers, found: credentials.Found) -> list[str]:
    """checkpointd gets the keys that lie there, and sees no network and no foreign directory, unless what it keeps goes
    there. The "-": a directory that is not mounted keeps nobody from starting."""
    cold, lines = settings.checkpoint.cold, credentials.keys(found)
    if cold.url:
        lines += ["PrivateNetwork=no", "RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK", "IPAddressDeny="]
        lines += credentials.cold(found)
    places = {"checkpoint.storage_path": settings.checkpoint.storage_path, "checkpoint.cold.directory": cold.directory}
    for key, place in places.items():
        if place:
            numbers.is_plain_path(key, place)
            lines.append(f"ReadWritePaths=-{place}")
    return lines


def _coupling(daemon: str, strategy: str) -> list[str]:
    """PartOf= takes a unit along when another is restarted, by systemd too; never BindsTo=, which leaves it dead."""
    earlier = START_ORDER[: START_ORDER.index(daemon)]
    others = tuple(one for one in START_ORDER if one != daemon)
    coupled = {"OneForOne": (), "RestForOne": earlier, "OneForAll": others}[strategy]
    lines = [f"PartOf={_units(coupled)}"] if coupled else []
    return [*lines, f"After={_units(earlier)}"] if coupled and earlier else lines


def _engine(settings: Settings, numbers: _Numbers) -> str:
    """It takes minutes to load, so it keeps a limit of its own."""
    window_ms = ENGINE_WINDOW_SECONDS * 1000 + numbers.delays.sum_ms(ENGINE_RESTARTS)
    start_seconds = VLLM_START_SECONDS if settings.llm.provider == "vllm" else ENGINE_START_SECONDS
    unit = [f"StartLimitIntervalSec={_seconds(window_ms)}", f"StartLimitBurst={ENGINE_RESTARTS}"]
    service = [f"WatchdogSec={_seconds(numbers.watchdog_ms)}", _start_limit(start_seconds, numbers.delays)]
    return _text(unit, service + _waiting(numbers.delays, "/run/selfware/engine/%i.backoff"))


def _wanted_engine(settings: Settings, source: Path) -> str | None:
    """The engine unit that Selfware starts itself, if it does."""
    llm = settings.llm
    if llm.provider not in OWN_ENGINES or llm.base_url:
        return None
    if (unit := engine_unit(llm.model)) is None:
        raise ConfigError(path=source, problem="'llm.model' is empty or too long for the name of a unit")
    return unit


def _start_limit(seconds: int, delays: Delays) -> str:
    """Long enough for the start itself after the longest wait."""
    return f"TimeoutStartSec={_seconds(max(seconds * 1000, delays.longest_ms + START_SECONDS * 1000))}"


def _waiting(delays: Delays, state: str) -> list[str]:
    """The "-": a program that cannot wait must not keep a daemon from starting."""
    if not delays.longest_ms:
        return []
    kept = f"--forget {_seconds(delays.forget_ms)} --state {state}"
    growth = f"--type {delays.type} --base {_seconds(delays.base_ms)} --max {_seconds(delays.max_ms)}"
    return [f"ExecStartPre=-{BACKOFF} {growth} {kept}", f"ExecStopPost=-{BACKOFF} --failed {kept}"]


def _text(unit: list[str], service: list[str]) -> str:
    return _lines(["[Unit]", *unit, "", "[Service]", *service])


def _lines(lines: list[str]) -> str:
    return "".join(f"{line}\n" for line in lines)


def _units(daemons: tuple[str, ...]) -> str:
    return " ".join(f"selfware-{daemon}.service" for daemon in daemons)


def _path(unit: str) -> str:
    return f"{unit}.d/{DROP_IN}"


def _header(source: Path) -> str:
    """A path may hold any byte but NUL; here it must stay a comment of one line."""
    name = "".join(letter if letter.isprintable() and letter != "\\" else "?" for letter in str(source))
    return (
        f"# Written by selfware-generator from {name}: a change here is lost.\n"
        f"# Change that file (or add one in {name}.d/), then 'systemctl daemon-reload' and restart the unit.\n"
    )


def _seconds(milliseconds: int) -> str:
    """1500 is 1.5; systemd and selfware-backoff both read it so."""
    whole, part = divmod(milliseconds, 1000)
    return f"{whole}.{part:03d}".rstrip("0") if part else str(whole)
