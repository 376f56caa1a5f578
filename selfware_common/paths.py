"""Where everything lies: one place that knows the difference between a systemd machine and a foreground trial.

Under systemd the paths are the FHS ones (/etc/selfware, /var/lib/selfware, /run/selfware). In the foreground every
path lies under $SELFWARE_HOME (default .selfware in the current directory). Nothing here creates anything.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from selfware_common.errors import SocketPathTooLongError

UNIX_PATH_LIMIT_BYTES = 107  # sizeof(sockaddr_un.sun_path) - 1, unix(7)


@dataclass(frozen=True)
class Paths:
    """The directories of one installation."""

    config: Path
    state: Path
    run: Path

    @property
    def config_file(self) -> Path:
        return self.config / "selfware.toml"

    @property
    def policy_file(self) -> Path:
        return self.config / "policy.toml"

    def state_of(self, daemon: str) -> Path:
        """State directory of a daemon by its short name ("agent")."""
        return self.state / daemon

    def socket_of(self, daemon: str, name: str = "api.sock") -> Path:
        """Path of one of a daemon's sockets; raises SocketPathTooLongError where Linux could not bind it."""
        path = self.run / daemon / name
        length = len(os.fsencode(path))
        if length > UNIX_PATH_LIMIT_BYTES:
            raise SocketPathTooLongError(path=path, length=length, limit=UNIX_PATH_LIMIT_BYTES)
        return path

    def engine_socket(self, model: str) -> Path:
        """Where the engine that serves `model` listens; the "/" of a hub's name becomes "-"."""
        return self.socket_of("engine", f"{model.strip('/').replace('/', '-')}.sock")


def foreground(home: Path) -> Paths:
    """The layout of a foreground stack below `home`."""
    home = home.absolute()
    return Paths(config=home / "etc", state=home / "state", run=home / "run")


def system() -> Paths:
    """The layout of an installed package."""
    return Paths(config=Path("/etc/selfware"), state=Path("/var/lib/selfware"), run=Path("/run/selfware"))


def from_environment(environ: Mapping[str, str] | None = None) -> Paths:
    """$SELFWARE_HOME decides; without it an installed machine is one where /run/selfware exists."""
    environ = os.environ if environ is None else environ
    if home := environ.get("SELFWARE_HOME"):
        return foreground(Path(home))
    if "NOTIFY_SOCKET" in environ or Path("/run/selfware").is_dir():
        return system()
    return foreground(Path(".selfware"))
