"""A store with a cold one beside it, for the tests of tiers, scrubbing and ruins; the fixture is in conftest.py."""

from __future__ import annotations

from pathlib import Path

from selfware_checkpointd.coldstore import DirectoryStore
from selfware_checkpointd.manifest import CheckpointInfo, Level
from selfware_checkpointd.store import Store
from selfware_checkpointd.tiering import NANOS, ColdPolicy

DAY = 86_400 * NANOS
NOW = 1_700_000_000 * NANOS
AWAY = ColdPolicy(after_seconds=86_400, keep_local_bytes=0)
BOTH = ColdPolicy(after_seconds=86_400, keep_local_bytes=1 << 40)
ALL = 1 << 50


class Rig:
    """A store with a cold one beside it, and what was saved."""

    def __init__(self, root: Path, cold: DirectoryStore | None = None) -> None:
        self.warm_path, self.cold_path = root / "warm", root / "cold"
        self.cold = cold or DirectoryStore(self.cold_path)
        self.saved: dict[str, bytes] = {}
        self.open()

    def open(self) -> None:
        self.store = Store(self.warm_path, cold=self.cold)

    def save(self, data: bytes, day: int, session: str = "alpha") -> CheckpointInfo:
        info = self.store.save(session, Level.SESSION, day + 1, data, "", NOW + day * DAY)
        self.saved[info.checkpoint_id] = data
        return info

    def turn(self, day: int, policy: ColdPolicy = AWAY) -> str:
        self.store.tighten()
        return self.store.tiers.turn(policy, NOW + day * DAY, ALL)

    def here(self) -> set[str]:
        return {path.name for path in self.warm_path.iterdir() if path.stat().st_size}

    def objects(self) -> set[str]:
        return {str(path.relative_to(self.cold_path)) for path in self.cold_path.rglob("*/*") if path.is_file()}

    def check(self) -> None:
        listed = {info.checkpoint_id for info in self.store.checkpoints()}
        assert listed == set(self.saved)
        for name, data in self.saved.items():
            assert self.store.load(name)[1] == data, name
