"""Finds out whether this machine can make a sandbox, and says in one sentence what is missing. Never falls back."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import NamedTuple

from .errors import SandboxUnavailableError
from .request import Features
from .sandbox import BWRAP

INSTALL = "Install it: apt install bubblewrap."
USERNS = (
    "Allow user namespaces: sysctl kernel.unprivileged_userns_clone=1, and on Ubuntu "
    "sysctl kernel.apparmor_restrict_unprivileged_userns=0 or an AppArmor profile for bwrap."
)
CHROOT = (
    "The kernel makes no user namespaces in a chroot: enter the directory with systemd-nspawn, "
    "or with unshare --mount and pivot_root."
)
OLDEST = (0, 5)
NEED = ["--unshare-user", "--unshare-ipc", "--unshare-pid", "--unshare-uts", "--unshare-cgroup-try", "--unshare-net"]


class Probe(NamedTuple):
    """What was found: a sentence, a hint when something is missing, and what bubblewrap can do."""

    available: bool
    sentence: str
    hint: str = ""
    features: Features = Features()

    def require(self) -> Features:
        """The features; SandboxUnavailableError if there can be no sandbox."""
        if not self.available:
            raise SandboxUnavailableError(reason=self.sentence, hint=self.hint)
        return self.features


def probe() -> Probe:
    """Make a small sandbox and see. About 15 ms; do it once."""
    for program, hint in ((BWRAP, INSTALL), ("/usr/bin/prlimit", "Install it: apt install util-linux.")):
        if not Path(program).exists():
            return Probe(False, f"{program} is not installed.", hint)
    version = _version(_run(BWRAP, "--version").stdout)
    if version < OLDEST:
        return Probe(False, f"bubblewrap {_dotted(version)} is older than {_dotted(OLDEST)}.", INSTALL)
    features = Features(disable_userns=version >= (0, 8), tmpfs_size=version >= (0, 7))
    attempt = _sandbox(features)
    if attempt.returncode and features.disable_userns:
        features = features._replace(disable_userns=False)
        attempt = _sandbox(features)
    if attempt.returncode:
        said = " ".join(attempt.stderr.split()) or f"it exited with status {attempt.returncode}"
        return Probe(False, f"bubblewrap failed: {said.rstrip('.')}.", CHROOT if _is_chroot() else USERNS)
    return Probe(True, f"bubblewrap {_dotted(version)} works", features=features)


def _is_chroot() -> bool:
    """Whether our root directory is not the mount at the top of our mount namespace."""
    with Path("/proc/self/mountinfo").open(encoding="utf-8") as file:
        return not any(line.split()[4] == "/" for line in file)


def _sandbox(features: Features) -> subprocess.CompletedProcess[str]:
    more = ["--disable-userns"] if features.disable_userns else []
    mounts = ["--ro-bind", "/", "/", "--proc", "/proc", "--dev", "/dev", "--remount-ro", "/proc"]
    return _run(BWRAP, *NEED, *more, "--die-with-parent", "--cap-drop", "ALL", *mounts, "/bin/true")


def _run(*argv: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(argv, check=False, capture_output=True, text=True, timeout=30)


def _version(text: str) -> tuple[int, ...]:
    found = re.search(r"(\d+)\.(\d+)", text)
    return tuple(int(part) for part in found.groups()) if found else (0,)


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(str(part) for part in version)
