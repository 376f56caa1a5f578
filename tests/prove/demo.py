"""Proof: the demo job on the real embedded model survives `kill -9` of every daemon and of the engine, in turn.

Runs `selfwarectl demo` in a fresh home, kills one process after the other while it works, and checks afterwards that it
ended well, that the journal has no gap, that no effect id came twice, and that no file outside the home changed.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

from selfware_checkpointd.memory import Memory
from selfware_common import events
from tests.prove.common import Verdict, arguments, report, say

VICTIMS = ("agent", "oversightd", "checkpointd", "inferenced", "resourced", "engine")
PAUSE_SECONDS = 8.0
# The kernel's and other programs' own places; everything else is looked at.
NOT_OURS = ("/proc/", "/sys/", "/dev/", "/run/", "/var/log/", "/var/lib/apt/", "/root/.cache/")


def victim(home: Path, name: str) -> psutil.Process | None:
    """The process of one program of this home, found by its command line and environment."""
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        if "-m" in words and words[words.index("-m") + 1 :][:1] == [f"selfware_{name}"]:
            try:
                if process.environ().get("SELFWARE_HOME") == str(home):
                    return process
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue
    return None


def changed_elsewhere(since: Path, home: Path) -> list[str]:
    """Files and directories outside the home that are newer than `since`."""
    argv = ["find", "/", "-xdev", "(", "-type", "f", "-o", "-type", "l", ")", "-newer", str(since)]
    found = subprocess.run(argv, capture_output=True, text=True, check=False).stdout.splitlines()
    return [path for path in found if not path.startswith((str(home), str(since.parent), *NOT_OURS))]


def main() -> int:
    given = arguments("demo", rounds=len(VICTIMS))
    base = Path(tempfile.mkdtemp(prefix="sw-"))
    home, marker = base / "home", base / "marker"
    marker.touch()
    job = subprocess.Popen(
        [sys.executable, "-m", "selfwarectl", "demo"],
        env={**os.environ, "SELFWARE_HOME": str(home), "PYTHONDONTWRITEBYTECODE": "1"},
        stdout=subprocess.PIPE,
        text=True,
    )
    kills = 0
    time.sleep(PAUSE_SECONDS)
    while kills < given.rounds and job.poll() is None:
        name = VICTIMS[kills % len(VICTIMS)]
        if process := victim(home, name):
            process.send_signal(signal.SIGKILL)
            kills += 1
            say(f"killed {name} (process {process.pid})")
        time.sleep(PAUSE_SECONDS)
    printed, _ = job.communicate(timeout=3600)
    sys.stderr.write(printed)
    elsewhere = changed_elsewhere(marker, base)
    for path in elsewhere:
        say(f"changed outside the home: {path}")
    journal = list(Memory(home / "state" / "checkpointd").read("main", 0))
    gaps = sum(record.sequence != number for number, record in enumerate(journal, start=1))
    effects = [events.decode(record.payload)["effect_id"] for record in journal if record.kind == "ActionProposed"]
    unknown = sum(b'"state":"unknown"' in record.payload for record in journal)
    duplicated = len(effects) - len(set(effects))
    counted = f"{len(journal)} events, {len(effects)} effects, {len(elsewhere)} files elsewhere"
    say(f"exit {job.returncode}, {counted}, in {home}")
    ok = job.returncode == 0 and not (gaps or duplicated or elsewhere) and kills == given.rounds
    return report(Verdict("demo", given.seed, given.rounds, kills, gaps, duplicated, unknown, ok))


if __name__ == "__main__":
    sys.exit(main())
