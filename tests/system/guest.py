"""What a test may do with a booted systemd, whether it runs in nspawn (machine.py) or in QEMU (qemu.py)."""

from __future__ import annotations

import abc
import io
import shlex
import subprocess
import tarfile
import time
from pathlib import Path

ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "LANG": "C.UTF-8",
    "TERM": "dumb",
    "DEBIAN_FRONTEND": "noninteractive",
}
AS_USER = 'exec setpriv --reuid "$0" --regid "$(id -g "$0")" --init-groups --reset-env -- "$@"'
DEBS = "/srv/debs"  # the user _apt may read it

Completed = subprocess.CompletedProcess[str]


class GuestError(Exception):
    """The container or virtual machine did not do what the harness needs: it did not boot, or went away."""


class CommandFailedError(AssertionError):
    """A command in the guest ended with another status than 0; the message carries what it printed."""

    def __init__(self, done: Completed) -> None:
        self.done = done
        said = f"{done.stdout}{done.stderr}".strip()
        super().__init__(f"{shlex.join(done.args)} ended with {done.returncode}\n{said}")


class Guest(abc.ABC):
    """Commands, files and units of one booted system."""

    poll_seconds = 0.02

    @abc.abstractmethod
    def execute(self, argv: list[str], data: bytes, timeout: float) -> subprocess.CompletedProcess[bytes]:
        """Run as root with a clean environment. Raises subprocess.TimeoutExpired, GuestError when the guest is gone."""

    def run(
        self,
        *argv: str,
        check: bool = True,
        input: str | bytes | None = None,  # the name subprocess.run has for it
        timeout: float = 60,
        user: str | None = None,
    ) -> Completed:
        """Run a command and wait for it; with `check`, any status but 0 raises CommandFailedError."""
        data = input.encode() if isinstance(input, str) else input or b""
        done = self.execute(as_user(user, argv), data, timeout)
        said = [part.decode("utf-8", "replace") for part in (done.stdout, done.stderr)]
        result = Completed(list(argv), done.returncode, said[0], said[1])
        if check and result.returncode != 0:
            raise CommandFailedError(result)
        return result

    def shell(self, script: str, check: bool = True, timeout: float = 60, user: str | None = None) -> Completed:
        """Run a script under bash with -e, -u and pipefail."""
        return self.run("bash", "-euo", "pipefail", "-c", script, check=check, timeout=timeout, user=user)

    def wait_for(self, script: str, seconds: float = 10) -> Completed:
        """Run a script over and over until it ends with 0. Raises CommandFailedError with its last words."""
        deadline = time.monotonic() + seconds
        while True:
            done = self.shell(script, check=False, timeout=max(seconds, 5))
            if done.returncode == 0:
                return done
            if time.monotonic() > deadline:
                raise CommandFailedError(done)
            time.sleep(self.poll_seconds)

    def copy_in(self, path: Path, dest: str) -> None:
        """Copy a file or a directory to exactly `dest`, owned by root; parents are made."""
        parent, _, name = dest.rpartition("/")
        if not parent or not name:
            raise ValueError(f"not an absolute path of a file: {dest}")
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w") as tar:
            tar.add(path, arcname=name, filter=owned_by_root)
        self.run("mkdir", "-p", parent)
        self.run("tar", "-x", "-f", "-", "-C", parent, input=packed.getvalue(), timeout=300)

    def write(self, path: str, text: str) -> None:
        """Write a file; parents are made."""
        self.run("sh", "-c", 'mkdir -p "$(dirname "$0")" && cat >"$0"', path, input=text)

    def read(self, path: str) -> str:
        """What is in a file."""
        return self.run("cat", path).stdout

    def exists(self, path: str) -> bool:
        """Whether anything lies there, a dangling link included."""
        return self.run("sh", "-c", '[ -e "$0" ] || [ -L "$0" ]', path, check=False).returncode == 0

    def install(self, *debs: Path, timeout: float = 300) -> Completed:
        """`apt-get install ./x.deb`, as the contract promises it; the guest has no network and needs none."""
        for deb in debs:
            self.copy_in(deb, f"{DEBS}/{deb.name}")
        names = [f"{DEBS}/{deb.name}" for deb in debs]
        return self.run("apt-get", "install", "-y", "--no-install-recommends", *names, timeout=timeout)

    def journal(self, unit: str, *args: str) -> str:
        """A unit's journal, messages only unless `args` says otherwise (`-o json`)."""
        self.run("journalctl", "--sync")
        return self.run("journalctl", "--no-pager", "-o", "cat", "-u", unit, *args).stdout

    def unit_property(self, unit: str, name: str) -> str:
        """One property as `systemctl show` prints it."""
        return self.run("systemctl", "show", "--value", "-p", name, unit).stdout.strip()

    def main_pid(self, unit: str) -> int:
        """The unit's main process as the guest numbers it; 0 when it has none. Signal it with run('kill', ...)."""
        return int(self.unit_property(unit, "MainPID"))

    def state(self) -> str:
        """What `systemctl is-system-running` says; empty while systemd does not answer."""
        return self.run("systemctl", "is-system-running", check=False).stdout.strip()


def as_user(user: str | None, argv: tuple[str, ...]) -> list[str]:
    """The command as that user, without PAM: no login session is made for it."""
    return list(argv) if user is None else ["sh", "-c", AS_USER, user, *argv]


def owned_by_root(member: tarfile.TarInfo) -> tarfile.TarInfo:
    """No user of the host means anything in the guest."""
    member.uid = member.gid = 0
    member.uname = member.gname = "root"
    return member
