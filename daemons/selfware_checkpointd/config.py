"""checkpointd's own view of selfware.toml."""

from __future__ import annotations

from pathlib import Path

from selfware_checkpointd.manifest import Level
from selfware_checkpointd.thinning import Policy
from selfware_common.paths import Paths
from selfware_common.settings import Settings


def root(where: Paths, settings: Settings) -> Path:
    """Where everything is kept."""
    configured = settings.checkpoint.storage_path
    return Path(configured) if configured else where.state_of("checkpointd")


def policy(settings: Settings) -> Policy:
    """Which checkpoints may go."""
    own = settings.checkpoint
    return Policy(own.retention_days, own.max_size_bytes, dict.fromkeys(Level, own.keep_per_level), own.most_per_level)
