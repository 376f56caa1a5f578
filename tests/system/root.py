"""The root directory of a container: an overlay on a tree extracted once, so that a boot writes next to nothing.

Extracting the whole image for every boot took 1 to 12 s where the kernel has to find the memory for it first. The
overlay is mounted in the container's own mount namespace and goes with it; what the container wrote lies in its work
directory and is there again at the next boot. Where /var/tmp cannot carry an overlay, the image is extracted after all.
"""

from __future__ import annotations

import functools
import shlex
import subprocess
import tempfile
from pathlib import Path

from tests.system import image as images
from tests.system.workdir import WorkDir

EXTRACT_SECONDS = 300


def prepare(image: Path, work: Path) -> tuple[Path, str]:
    """The root directory, and the shell command that a mount namespace of its own needs to fill it."""
    root = work / "root"
    root.mkdir()
    if overlay_works():
        return root, overlay(extracted(image), work, root)
    extract(image, root)
    return root, ":"


def extracted(image: Path) -> Path:
    """The tree of that image in the cache; nobody may change it."""
    tree = image.with_suffix(".root")
    with images.once(tree) as missing:
        if missing:
            with tempfile.TemporaryDirectory(dir=tree.parent) as scratch:
                extract(image, Path(scratch))
                made = Path(scratch).rename(tree)
                made.chmod(0o755)
                Path(scratch).mkdir()  # for the one that removes it
    return tree


def extract(image: Path, root: Path) -> None:
    """Unpack an image into a directory that exists."""
    subprocess.run(["tar", "-x", "-f", str(image), "-C", str(root)], check=True, timeout=EXTRACT_SECONDS)


def overlay(lower: Path, work: Path, root: Path) -> str:
    """Mounts what is below with a layer to write to; fsync means there what it means on the disk."""
    for name in ("upper", "overlay"):
        (work / name).mkdir()
        (work / name).chmod(0o755)
    layers = f"lowerdir={lower},upperdir={work / 'upper'},workdir={work / 'overlay'},redirect_dir=on"
    return shlex.join(["mount", "-t", "overlay", "overlay", "-o", layers, str(root)])


@functools.cache
def overlay_works() -> bool:
    """Whether a work directory can carry an overlay: not where it lies on one itself, as in many containers."""
    with WorkDir() as work:
        root, lower = work.path / "root", work.path / "lower"
        root.mkdir()
        lower.mkdir()
        argv = ["unshare", "--mount", "sh", "-c", f"{overlay(lower, work.path, root)} && touch {root}/written"]
        return subprocess.run(argv, capture_output=True, check=False, timeout=30).returncode == 0
