"""The peers of the checkpoint bench: borg (two chunk sizes) and restic, as whole commands on one state file.

Repositories, caches and keys lie in the directory given; nothing of the user's is read or written.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.bench.served import tree_bytes

# about 32 KiB on average: for states that change a little everywhere
SMALL_CHUNKS = "--chunker-params=buzhash,12,18,15,4095"


@dataclass(frozen=True)
class Tool:
    """One peer: `init` once, then `save` and `restore`; {repository} and {step} are filled in."""

    name: str
    repository: Path
    init: tuple[str, ...]
    save: tuple[str, ...]
    restore: tuple[str, ...]

    def prepare(self) -> None:
        self.run(self.init, 0, self.repository.parent)

    def save_step(self, step: int, directory: Path) -> None:
        self.run(self.save, step, directory)

    def restore_step(self, step: int, target: Path) -> None:
        """To standard output, that is into a new file; synced by none of them."""
        with target.open("wb") as output:
            self.run(self.restore, step, target.parent, output=output)

    def run(self, argv: tuple[str, ...], step: int, directory: Path, output: object = subprocess.DEVNULL) -> None:
        filled = [part.replace("{repository}", str(self.repository)).replace("{step}", str(step)) for part in argv]
        subprocess.run(filled, cwd=directory, env=environment(self.repository.parent), check=True, stdout=output)  # type: ignore[call-overload]

    def stored_bytes(self) -> int:
        return tree_bytes(self.repository)


def environment(base: Path) -> dict[str, str]:
    """Unattended, and everything below base."""
    compiled = Path(__file__).parents[2] / ".venv/borg/bin"  # borg 1.4, see packaging/bootstrap
    return {
        **os.environ,
        "PATH": f"{compiled}:{os.environ['PATH']}",
        "HOME": str(base),
        "BORG_BASE_DIR": str(base / "borg-base"),
        "BORG_PASSPHRASE": "bench",
        "BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK": "yes",
        "BORG_RELOCATED_REPO_ACCESS_IS_OK": "yes",
        "RESTIC_PASSWORD": "bench",
        "RESTIC_CACHE_DIR": str(base / "restic-cache"),
    }


def tools(base: Path, file_name: str) -> list[Tool]:
    """Those that are installed."""
    found = []
    if shutil.which("borg", path=environment(base)["PATH"]):
        for name, extra in (("borg", ()), ("borg 32 KiB chunks", ("--compression=zstd,3", SMALL_CHUNKS))):
            repository = base / name.replace(" ", "-")
            found.append(
                Tool(
                    name,
                    repository,
                    ("borg", "init", "--encryption=none", "{repository}"),
                    ("borg", "create", *extra, "{repository}::step-{step}", file_name),
                    ("borg", "extract", "--stdout", "{repository}::step-{step}"),
                )
            )
    if shutil.which("restic"):
        found.append(
            Tool(
                "restic",
                base / "restic",
                ("restic", "-q", "-r", "{repository}", "init"),
                ("restic", "-q", "-r", "{repository}", "backup", "--tag", "step-{step}", file_name),
                ("restic", "-q", "-r", "{repository}", "dump", "--tag", "step-{step}", "latest", f"/{file_name}"),
            )
        )
    return found
