"""Builds the root images that the system tests boot, once, and keeps them in a cache outside the repository.

`python -m tests.system.image [machine] [disk]` builds them ahead of the tests. An image is named after everything that
went into its recipe, so a changed recipe builds a new one; nothing expires by itself: remove the cache to start afresh.
The packages come from wherever this machine's own apt gets them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

RECIPE = 1  # raise it when the way an image is made changes and nothing below says so
PACKAGES = (
    "systemd", "systemd-sysv", "dbus", "polkitd", "libnss-systemd", "python3", "python3-pytest", "bubblewrap", "git",
    "libgomp1", "util-linux", "procps", "bash-completion", "ca-certificates", "e2fsprogs",
)  # fmt: skip
DISK_PACKAGES = (*PACKAGES, "acl", "dmsetup")
KERNELS = {"debian": "linux-image-cloud-amd64", "ubuntu": "linux-image-virtual"}
DISK_SIZE = "4G"
# Where the packages came from is no business of the image: apt works offline there with an empty list. A machine-id
# that exists already makes it a machine like any other, not one that boots for the first time.
HOOKS = (
    'rm -rf "$1"/etc/apt/sources.list "$1"/etc/apt/sources.list.d/* "$1"/etc/apt/apt.conf.d/99mmdebstrap',
    'touch "$1"/etc/apt/sources.list',
    'echo selfware-test >"$1"/etc/hostname',
    'rm -f "$1"/etc/resolv.conf && touch "$1"/etc/resolv.conf',
    'echo 5e1f3a7e5e1f3a7e5e1f3a7e5e1f3a7e >"$1"/etc/machine-id',
    'rm -f "$1"/etc/systemd/system/timers.target.wants/*',
)
APT_OPTIONS = ("Acquire::http", "Acquire::https", "Acquire::Check-", "Acquire::Retries", "Acquire::ForceIPv4")
AGENT = Path(__file__).with_name("guest_agent.py")
AGENT_AT = "usr/local/lib/selfware-test/guest_agent.py"
UNIT_AT = "etc/systemd/system/guest-agent.service"
WANTED_AT = "etc/systemd/system/multi-user.target.wants/guest-agent.service"
AGENT_UNIT = f"""[Unit]
Description=Runs what the tests send through the virtio port
After=basic.target dbus.service

[Service]
ExecStart=/usr/bin/python3 -I -S /{AGENT_AT}
Restart=always
RestartSec=100ms
OOMScoreAdjust=-900
KillMode=process
TasksMax=infinity
"""


class ImageError(Exception):
    """An image could not be built; the message carries the last words of the tool that failed."""


@dataclasses.dataclass(frozen=True)
class Disk:
    """What QEMU boots: an ext4 file system without partitions, and the kernel that belongs to it."""

    ext4: Path
    kernel: Path
    initrd: Path


def machine_image() -> Path:
    """The tar that machine.py extracts; built when the cache has none."""
    made = directory() / f"machine-{key(PACKAGES)}.tar"
    with once(made) as missing:
        if missing:
            with tempfile.TemporaryDirectory(dir=made.parent) as scratch:
                partial = Path(scratch, "partial.tar")
                _mmdebstrap(PACKAGES, partial, "tar")
                partial.rename(made)
    return made


def disk_image() -> Disk:
    """The disk that qemu.py boots; built when the cache has none."""
    made = directory() / f"disk-{key(disk_packages(), AGENT.read_text(encoding='utf-8'), AGENT_UNIT, DISK_SIZE)}"
    with once(made) as missing:
        if missing:
            with tempfile.TemporaryDirectory(dir=made.parent) as scratch:
                _build_disk(Path(scratch))
                Path(scratch, "made").rename(made)
    return Disk(made / "root.ext4", made / "vmlinuz", made / "initrd")


def machine_is_cached() -> bool:
    """Whether machine_image() would have nothing to build."""
    return (directory() / f"machine-{key(PACKAGES)}.tar").exists()


def directory() -> Path:
    """Where images are kept: $SELFWARE_TEST_CACHE/images, else below the user's cache directory."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    path = Path(os.environ.get("SELFWARE_TEST_CACHE") or Path(cache, "selfware")) / "images"
    path.mkdir(parents=True, exist_ok=True)
    return path


def key(packages: Sequence[str], *more: str) -> str:
    """Names a recipe: the same key is the same image, as far as a recipe can tell."""
    parts = [str(RECIPE), os_release("VERSION_CODENAME"), platform.machine(), *packages, *HOOKS, *more]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def disk_packages() -> tuple[str, ...]:
    """The packages of the disk, the kernel as this distribution names it included."""
    return (*DISK_PACKAGES, KERNELS.get(os_release("ID"), KERNELS["debian"]))


def os_release(name: str) -> str:
    """One field of this machine's os-release(5), for the image is what the host is."""
    return platform.freedesktop_os_release().get(name, "")


@contextlib.contextmanager
def once(made: Path) -> Iterator[bool]:
    """Whether `made` has to be built. One process at a time gets here, so the second finds what the first built."""
    if made.exists():
        yield False
        return
    with (made.parent / f"{made.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        missing = not made.exists()
        began = time.monotonic()
        if missing:
            say(f"building {made}: a minute or so, once")
        yield missing
        if missing:
            say(f"built {made.name} in {time.monotonic() - began:.0f} s")


def _build_disk(scratch: Path) -> None:
    """Make scratch/made: the disk, its kernel, its initrd. Nothing is mounted for it."""
    root, made = scratch / "root", scratch / "made"
    made.mkdir()
    _mmdebstrap(disk_packages(), root, "directory")
    (root / AGENT_AT).parent.mkdir(parents=True)
    shutil.copyfile(AGENT, root / AGENT_AT)
    (root / UNIT_AT).write_text(AGENT_UNIT, encoding="utf-8")
    (root / WANTED_AT).symlink_to(f"/{UNIT_AT}")
    for name, pattern in (("vmlinuz", "vmlinuz-*"), ("initrd", "initrd.img-*")):
        (found,) = (root / "boot").glob(pattern)
        shutil.copyfile(found, made / name)
    _call(["mke2fs", "-q", "-t", "ext4", "-L", "root", "-d", str(root), str(made / "root.ext4"), DISK_SIZE])


def _mmdebstrap(packages: Sequence[str], target: Path, form: str) -> None:
    argv = ["mmdebstrap", "--variant=minbase", f"--format={form}", f"--include={','.join(packages)}"]
    argv += [f"--aptopt={option}" for option in apt_options()]
    argv += [f"--customize-hook={hook}" for hook in HOOKS]
    argv += [os_release("VERSION_CODENAME"), str(target), *map(str, apt_sources())]
    _call(argv)


def apt_sources() -> list[Path]:
    """This machine's own sources, without those of other vendors, which name other suites."""
    etc, suite = Path("/etc/apt"), os_release("VERSION_CODENAME")
    files = [etc / "sources.list", *sorted((etc / "sources.list.d").glob("*.sources"))]
    files += sorted((etc / "sources.list.d").glob("*.list"))
    found = [path for path in files if path.is_file() and suite in path.read_text(encoding="utf-8").split()]
    if not found:
        raise ImageError(f"no file in /etc/apt names the suite {suite}")
    return found


def apt_options() -> list[str]:
    """How this machine's apt reaches its mirror: a proxy, retries, clocks it does not trust."""
    dump = subprocess.run(["apt-config", "dump", "--no-empty"], capture_output=True, text=True, check=True).stdout
    return [line for line in dump.splitlines() if line.startswith(APT_OPTIONS)]


def _call(argv: list[str]) -> None:
    """Run a tool, pass its lines on, keep the last ones for the error."""
    environment = {**os.environ, "TMPDIR": "/var/tmp", "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C.UTF-8"}
    lines: list[str] = []
    with subprocess.Popen(
        argv, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            lines = [*lines[-30:], line]
            if line.startswith(("I: ", "E: ", "W: ")):
                say(line.rstrip())
    if process.returncode != 0:
        raise ImageError(f"{argv[0]} ended with {process.returncode}\n{''.join(lines)}")


def say(line: str) -> None:
    """One line of progress."""
    sys.stderr.write(f"image: {line}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    for kind in sys.argv[1:] or ["machine", "disk"]:
        print({"machine": machine_image, "disk": disk_image}[kind]())
