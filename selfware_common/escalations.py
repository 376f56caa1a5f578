"""Units that systemd gave up on: written when it happens, read by whoever shows how things stand.

A record is one JSON file per unit in /run/selfware/escalations: it is about this boot only.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import orjson

from selfware_common.paths import Paths


@dataclass(frozen=True)
class Escalation:
    """One unit that failed for good."""

    unit: str
    reason: str
    time_unix_nanos: int


def write(where: Paths, escalation: Escalation) -> None:
    """Replace the unit's record."""
    directory = _directory(where)
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"{escalation.unit.replace('/', '-')}.json"
    temporary = path.with_suffix(".tmp")
    temporary.write_bytes(orjson.dumps(asdict(escalation)))
    temporary.replace(path)


def read(where: Paths) -> list[Escalation]:
    """All records, oldest first; what cannot be read is left out, for this is only told to people."""
    found = []
    for path in sorted(_directory(where).glob("*.json")):
        try:
            found.append(Escalation(**orjson.loads(path.read_bytes())))
        except (OSError, ValueError, TypeError):
            continue
    return sorted(found, key=lambda one: one.time_unix_nanos)


def clear(where: Paths) -> None:
    """Forget them: everything is started anew."""
    for path in _directory(where).glob("*.json"):
        path.unlink(missing_ok=True)


def _directory(where: Paths) -> Path:
    return where.run / "escalations"
