"""`selfware-generator NORMAL-DIR EARLY-DIR LATE-DIR` (systemd.generator(7)): selfware.toml in, drop-ins out.

It runs before the journal does, so an error goes to the kernel log, from where the journal takes it; in a trial
(SELFWARE_CONFIG_DIR names another directory than /etc/selfware) it goes to stderr, and credentials are looked for
below root/ there.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from selfware_common import paths, settings
from selfware_common.errors import ConfigError, SelfwareError
from selfware_generator import credentials
from selfware_generator.plan import Plan, fallback, plan

KERNEL_LOG = Path("/dev/kmsg")
LONGEST_LINE_BYTES = 900  # the kernel takes 1 KiB at most


def main() -> int:
    """Ends with 0 whatever stands in selfware.toml: a mistake there must not break the boot."""
    trial = os.environ.get("SELFWARE_CONFIG_DIR")
    kernel_log = None if trial else KERNEL_LOG
    if len(sys.argv) != 4:
        say("usage: selfware-generator NORMAL-DIR EARLY-DIR LATE-DIR", None)
        return 2
    source = (Path(trial) if trial else paths.system().config) / "selfware.toml"
    found = credentials.find(Path(trial, "root") if trial else Path("/"))
    try:
        files = plan(load(source), source, found)
    except SelfwareError as error:
        say(f"{error} Until then the defaults hold.", kernel_log)
        files = fallback(found)
    try:
        write(files, Path(sys.argv[1]))
    except OSError as error:
        say(f"cannot write {error.filename}: {error.strerror}", kernel_log)
        return 1
    return 0


def load(source: Path) -> settings.Settings:
    """As settings.load, and deep nesting, which tomllib gives up on, is an error like any other."""
    try:
        return settings.load(source)
    except RecursionError:
        raise ConfigError(path=source, problem="is nested too deeply") from None


def write(files: Plan, directory: Path) -> None:
    """Below `directory` only; systemd empties it before it runs us."""
    for name, text in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


def say(sentence: str, kernel_log: Path | None) -> None:
    """One line to the kernel log, or to stderr where there is none that takes it. Never blocks."""
    line = f"<3>selfware-generator: {' '.join(sentence.split())}".encode()[:LONGEST_LINE_BYTES] + b"\n"
    if kernel_log is not None:
        try:
            descriptor = os.open(kernel_log, os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
            try:
                os.write(descriptor, line)
            finally:
                os.close(descriptor)
        except OSError:
            pass  # a container may not have one: say it on stderr
        else:
            return
    sys.stderr.buffer.write(line)
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main())
