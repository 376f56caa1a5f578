"""Fills the tree that becomes the .deb: `wheels DIR` brings the locked wheels there, `install ROOT WHEELS` puts
Selfware, the wheels, the launchers of the table `programs` and the shell completion under ROOT.

Wheels come through pip as this machine has it configured, and only with the hashes of packaging/locks/runtime.txt.
Nothing but `wheels` uses a network. Run by packaging/build-deb and debian/rules with Debian's own python3.
"""

from __future__ import annotations

import email
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
PROGRAMS = HERE / "programs"
LOCK = HERE / "locks" / "runtime.txt"
APP, VENDOR = "/usr/lib/selfware/app", "/usr/lib/selfware/vendor"
BUILD_TOOLS = frozenset(("editables", "hatchling", "pathspec", "tomlkit", "trove-classifiers"))
"""In the lock for the editable install of a checkout."""
JUDGES = frozenset(("iniconfig", "packaging", "pluggy", "pygments", "pytest"))
"""In the lock for the demo job; an installed machine has Debian's own python3-pytest."""
# Records of this build, type stubs, and the sources of what is compiled: nothing reads them again.
UNUSED = ("direct_url.json", "REQUESTED", "INSTALLER", ".gitignore", "*.hash", "*.pyi", "*.pyx", "*.c", "*.h")
COMPLETIONS = {
    "bash": "usr/share/bash-completion/completions/selfwarectl",
    "zsh": "usr/share/zsh/vendor-completions/_selfwarectl",
    "fish": "usr/share/fish/vendor_completions.d/selfwarectl.fish",
}


@dataclass(frozen=True)
class Program:
    """One line of the table."""

    path: str
    source: str
    """A module with a function main(), or ./FILE of this directory."""

    def text(self) -> str:
        """What is written to `path`."""
        if self.source.startswith("./"):
            return (HERE / self.source).read_text(encoding="utf-8")
        return (
            "#!/usr/bin/python3 -IS\n"
            "import gc\n"
            "import sys\n\n"
            "gc.disable()  # to look for garbage among modules being made takes a tenth of the start\n"
            f'sys.path[:0] = ["{APP}", "{VENDOR}"]\n'
            f"from {self.source} import main\n\n"
            "gc.freeze()\n"
            "gc.enable()\n"
            "sys.exit(main())\n"
        )


def programs() -> list[Program]:
    """The table."""
    lines = PROGRAMS.read_text(encoding="utf-8").splitlines()
    return [Program(*line.split()) for line in lines if line and not line.startswith("#")]


def locked() -> Iterator[tuple[str, str]]:
    """Each requirement of the lock that is shipped: its name, and its lines with the hashes."""
    block: list[str] = []
    for line in [*LOCK.read_text(encoding="utf-8").splitlines(), ""]:
        if block and not line.startswith((" ", "\t")):
            name = block[0].split("==")[0].strip()
            # A marker that pip evaluates (Windows only) does no harm here.
            if name not in BUILD_TOOLS | JUDGES:
                yield name, "\n".join(block) + "\n"
            block = []
        if line and not line.lstrip().startswith("#"):
            block.append(line)


def wheels(target: Path) -> None:
    """Download the wheels and write the shortened lock beside them."""
    target.mkdir(parents=True, exist_ok=True)
    lock = target / "lock.txt"
    lock.write_text("".join(text for _name, text in locked()), encoding="utf-8")
    _pip("download", "--require-hashes", "--no-deps", "--only-binary", ":all:", "--dest", str(target), "-r", str(lock))


def install(root: Path, wheelhouse: Path) -> None:
    """Everything that is not a plain file of packaging/debian/*.install."""
    app, vendor = root / APP[1:], root / VENDOR[1:]
    _install_app(app)
    _install_wheels(vendor, wheelhouse)
    for program in programs():
        path = root / program.path[1:]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(program.text(), encoding="utf-8")
        path.chmod(0o755)
    for shell, place in COMPLETIONS.items():
        path = root / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(completion(shell, [str(app), str(vendor)]), encoding="utf-8")
    notices = root / "usr/share/doc/selfware/third-party.txt"
    notices.parent.mkdir(parents=True, exist_ok=True)
    notices.write_text("".join(_notices(vendor)), encoding="utf-8")


def completion(shell: str, where: list[str]) -> str:
    """What click writes for one shell; it calls selfwarectl itself to learn the words."""
    script = f"import sys; sys.path[:0] = {where!r}; from selfwarectl.__main__ import cli; cli(prog_name='selfwarectl')"
    done = subprocess.run(
        [sys.executable, "-I", "-c", script],
        env={**os.environ, "_SELFWARECTL_COMPLETE": f"{shell}_source", "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return done.stdout


def _install_app(app: Path) -> None:
    source = HERE.parent
    packages = [source / "selfware_common", *sorted((source / "daemons").glob("*/"))]
    unused = shutil.ignore_patterns("__pycache__", "py.typed", "*.pyi")
    for package in packages:
        if (package / "__init__.py").is_file():
            shutil.copytree(package, app / package.name, ignore=unused)
    for path in app.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)


def _install_wheels(vendor: Path, wheelhouse: Path) -> None:
    options = ("--no-index", "--find-links", str(wheelhouse), "--require-hashes", "--no-deps", "--no-compile")
    _pip("install", *options, "--no-warn-script-location", "--target", str(vendor), "-r", str(wheelhouse / "lock.txt"))
    shutil.rmtree(vendor / "bin", ignore_errors=True)
    for path in [*vendor.glob("*/tests"), *vendor.glob("*/test")]:
        shutil.rmtree(path)
    for pattern in UNUSED:
        for path in vendor.rglob(pattern):
            if path.is_file():
                path.unlink()
    for path in vendor.rglob("*"):
        if path.is_file():
            path.chmod(0o644)
            if path.suffix == ".py":
                _drop_shebang(path)
    for path in sorted(vendor.rglob("*"), reverse=True):
        if path.is_dir() and not any(path.iterdir()):
            path.rmdir()


def _drop_shebang(path: Path) -> None:
    data = path.read_bytes()
    if data.startswith(b"#!"):
        path.write_bytes(data[data.index(b"\n") :])  # the newline stays, and with it the line numbers


def _notices(vendor: Path) -> Iterator[str]:
    """One line per wheel, from its own metadata."""
    yield f"Published wheels that Selfware carries in {VENDOR}, unchanged but for stripped debug symbols.\n"
    yield "The full licence texts lie in the .dist-info directory of each.\n\n"
    for path in sorted(vendor.glob("*.dist-info/METADATA")):
        head = email.message_from_string(path.read_text(encoding="utf-8"))
        licence = head["License-Expression"] or (head["License"] or "").split("\n")[0].strip()
        classifiers = [one.split(" :: ")[-1] for one in head.get_all("Classifier", []) if one.startswith("License")]
        yield f"{head['Name']} {head['Version']}: {licence or ', '.join(classifiers) or 'see its metadata'}\n"


def _pip(*words: str) -> None:
    """Quiet but for errors; what it warns about belongs to this machine's configuration."""
    command = [sys.executable, "-m", "pip", "--quiet", "--quiet", "--disable-pip-version-check", "--no-input", *words]
    subprocess.run(command, check=True, env={**os.environ, "PIP_ROOT_USER_ACTION": "ignore"})


def main() -> int:
    """`wheels DIR` or `install ROOT WHEELS`."""
    match sys.argv[1:]:
        case ["wheels", target]:
            wheels(Path(target))
        case ["install", root, wheelhouse]:
            install(Path(root), Path(wheelhouse))
        case _:
            print("usage: deb_tree.py wheels DIR | install ROOT WHEELS", file=sys.stderr)
            return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
