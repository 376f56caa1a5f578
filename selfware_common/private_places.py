"""Directories that no daemon sees as the machine has them: what is configured to lie there would be out of reach, or be
deleted when the daemon stops. Pure; which they are is said by units/selfware-.service.d/10-common.conf.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path, PurePath

from selfware_common.errors import ConfigError
from selfware_common.settings import Settings

EMPTIED = "each daemon has a directory of its own there, and it is deleted when that daemon stops"
HIDDEN = "no daemon sees what lies there"
PLACES: Mapping[str, str] = {
    "/tmp": EMPTIED,  # PrivateTmp=  # noqa: S108 - to refuse it
    "/var/tmp": EMPTIED,  # noqa: S108
    "/home": HIDDEN,  # ProtectHome=
    "/root": HIDDEN,
    "/run/user": HIDDEN,
    "/dev": HIDDEN,  # PrivateDevices=
    "/proc": HIDDEN,
    "/sys": HIDDEN,
}


def refuse(settings: Settings, source: Path) -> None:
    """ConfigError, which names `source`, if the store or the cold store is to lie in such a place."""
    own = settings.checkpoint
    for key, value in (("storage_path", own.storage_path), ("cold.directory", own.cold.directory)):
        if value and (why := reason(Path(value).resolve())):
            problem = f"'checkpoint.{key}' must not be {value}: {why}; choose a directory below /srv or /mnt, say"
            raise ConfigError(path=source, problem=problem)


def reason(directory: PurePath) -> str:
    """Why nothing can be kept in that directory; empty: it can."""
    for place, why in PLACES.items():
        if directory.is_relative_to(place):
            return why
    return ""
