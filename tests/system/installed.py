"""Selfware as a .deb, built once per run, and put on a booted machine with the scripted engine in the model's place."""

from __future__ import annotations

import atexit
import functools
import hashlib
import json
import os
import shlex
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from tests.system import image as images
from tests.system.guest import Guest
from tests.system.qemu import VirtualMachine

ROOT = Path(__file__).resolve().parents[2]
GUEST_SCRIPTS = Path(__file__).parent / "inside"
DAEMONS = ("checkpointd", "resourced", "oversightd", "inferenced", "agent")
ENGINE = "selfware-engine@scripted.service"
UNITS = (*(f"selfware-{name}.service" for name in DAEMONS), ENGINE)


@functools.cache
def deb() -> Path:
    """The package of this checkout ($SELFWARE_TEST_DEB stands in for it). A copy named after what it was built from
    serves until a source changes."""
    if given := os.environ.get("SELFWARE_TEST_DEB"):
        return Path(given)
    kept = images.directory() / f"selfware-{_digest_of_sources()}.deb"
    with images.once(kept) as missing:
        if missing:
            build = [ROOT / "packaging" / "build-deb"]
            subprocess.run(build, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
            (built,) = (ROOT / "dist").glob("selfware_*.deb")
            for old in kept.parent.glob("selfware-*.deb"):
                old.unlink()
            shutil.copy(built, kept.with_suffix(".tmp"))
            kept.with_suffix(".tmp").rename(kept)
    named = Path(tempfile.mkdtemp(prefix="selfware-deb-")) / "selfware_0_amd64.deb"
    atexit.register(shutil.rmtree, named.parent, ignore_errors=True)
    shutil.copy(kept, named)
    return named


def _digest_of_sources() -> str:
    digest = hashlib.sha256()
    for top in ("units", "daemons", "protos", "selfware_common", "packaging", "pyproject.toml", "README.md"):
        path = ROOT / top
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.is_file() and "__pycache__" not in file.parts:
                digest.update(f"{file.relative_to(ROOT)}\0{file.stat().st_mode}\0".encode() + file.read_bytes())
    return digest.hexdigest()[:16]


def put_on(guest: Guest, *more: Path, start: bool = True) -> None:
    """Install, configure for the scripted engine, enable; start unless told not to."""
    guest.install(deb(), *more)
    for script in sorted(GUEST_SCRIPTS.glob("*.py")):
        guest.copy_in(script, f"/opt/{script.name}")
    guest.run("python3", "/opt/job.py", "engine", timeout=120)
    if start:
        guest.run("systemctl", "start", "selfware.target", timeout=180)
        all_active(guest)


def put_on_disk(vm: VirtualMachine) -> None:
    """The same on the disk of a virtual machine that is not running: emulated, an installation takes many minutes."""
    mount = vm.disk.parent / "mnt"
    mount.mkdir(exist_ok=True)
    inside = ["systemd-nspawn", "-q", "--register=no", "--keep-unit", "--private-network", "--pipe", "-D", str(mount)]
    install = (
        "apt-get install -y --no-install-recommends /var/tmp/selfware_0_amd64.deb && systemctl enable selfware.target"
    )
    script = (
        f'mount -o loop "$1" {mount} && cp -L "$2" {mount}/var/tmp/selfware_0_amd64.deb && '
        f'cp "$3"/*.py {mount}/opt/ && '
        f"{shlex.join([*inside, 'sh', '-c', install])} && {shlex.join([*inside, 'python3', '/opt/job.py', 'engine'])}; "
        f"status=$?; umount {mount}; exit $status"
    )
    words = ["unshare", "--mount", "--propagation", "private", "sh", "-c", script, "sh"]
    words += [str(vm.disk), str(deb()), str(GUEST_SCRIPTS)]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=600, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


def all_active(guest: Guest, seconds: float = 60) -> None:
    """Every daemon and the engine are up. One by one: of several, systemctl is content with any."""
    each = f"for unit in selfware.target {' '.join(UNITS)}; do systemctl is-active -q $unit || exit 1; done"
    guest.wait_for(each, seconds)


def job(guest: Guest, *words: object, timeout: float = 120) -> str:
    """The job driver inside; its last line."""
    done = guest.run("python3", "/opt/job.py", *map(str, words), timeout=timeout)
    return done.stdout.strip().rpartition("\n")[2]


def verdict(guest: Guest) -> dict[str, Any]:
    """What the books say against what happened."""
    told = json.loads(job(guest, "verdict"))
    assert isinstance(told, dict)
    return told


def act(
    guest: Guest, action: dict[str, Any], workspace: str, timeout: float = 150, between: str = "", **limits: float
) -> dict[str, Any]:
    """One action in a tool unit, without policy; see inside/act.py."""
    words = ["python3", "/opt/act.py", workspace, json.dumps(action), json.dumps(limits), between]
    told = json.loads(guest.run(*words, timeout=timeout).stdout)
    assert isinstance(told, dict)
    return told


def script(
    guest: Guest,
    text: str,
    workspace: str = "/var/lib/selfware/workspaces/w",
    wait_seconds: float = 150,
    **limits: float,
) -> dict[str, Any]:
    """A shell script as an action."""
    guest.shell(f"mkdir -p {workspace}")
    return act(guest, {"run_command": {"script": text}}, workspace, wait_seconds, **limits)
