"""checkpointd's own view of selfware.toml."""

from __future__ import annotations

from pathlib import Path

from selfware_checkpointd.coldstore import ColdStore, Where, open_store
from selfware_checkpointd.manifest import Level
from selfware_checkpointd.scrub import ScrubPolicy
from selfware_checkpointd.thinning import Policy
from selfware_checkpointd.tiering import ColdPolicy
from selfware_common import private_places
from selfware_common.paths import Paths, system
from selfware_common.settings import Settings


def root(where: Paths, settings: Settings) -> Path:
    """Where everything is kept; ConfigError if a unit could not keep anything where the settings want it."""
    if where == system():
        private_places.refuse(settings, where.config_file)
    configured = settings.checkpoint.storage_path
    return Path(configured) if configured else where.state_of("checkpointd")


def policy(settings: Settings) -> Policy:
    """Which checkpoints may go."""
    own = settings.checkpoint
    return Policy(own.retention_days, own.max_size_bytes, dict.fromkeys(Level, own.keep_per_level), own.most_per_level)


def cold_store(where: Paths, settings: Settings) -> ColdStore | None:
    """Where old checkpoints go, if anywhere; ConfigError if that cannot be."""
    cold = settings.checkpoint.cold
    return open_store(Where(cold.directory, cold.url, cold.endpoint, cold.region), where.config_file)


def cold_policy(settings: Settings) -> ColdPolicy:
    """When they go."""
    cold = settings.checkpoint.cold
    return ColdPolicy(cold.after_seconds, cold.keep_local_bytes)


def scrub_policy(settings: Settings) -> ScrubPolicy:
    """How often everything is verified."""
    return ScrubPolicy(settings.checkpoint.scrub_days, settings.checkpoint.cold.scrub)
