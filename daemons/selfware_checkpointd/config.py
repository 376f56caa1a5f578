"""checkpointd's own view of selfware.toml."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from selfware_checkpointd.manifest import Level
from selfware_common.paths import Paths
from selfware_common.settings import Settings


def root(where: Paths, settings: Settings) -> Path:
    """Where everything is kept."""
    configured = settings.checkpoint.storage_path
    return Path(configured) if configured else where.state_of("checkpointd")


def keep(settings: Settings) -> Mapping[Level, int]:
    """Newest checkpoints kept per level."""
    return dict.fromkeys(Level, settings.checkpoint.keep_per_level)
