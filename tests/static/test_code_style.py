"""Static checks that keep the tree honest: linters clean, layers apart, generated files fresh."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
DAEMONS = sorted(path.name for path in (ROOT / "daemons").iterdir() if (path / "__init__.py").exists())
# oversightd launches the tool runner in process; doctor asks the same package whether a sandbox can be had.
ALLOWED = {("selfware_oversightd", "selfware_tool"), ("selfwarectl", "selfware_tool")}
MAX_LINES = 400


def run(*argv: str) -> None:
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(argv)}\n{done.stdout}{done.stderr}"


def tracked(*patterns: str) -> list[Path]:
    done = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", *patterns],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return [ROOT / name for name in done.stdout.splitlines() if (ROOT / name).is_file()]


def test_ruff_finds_nothing() -> None:
    run(sys.executable, "-m", "ruff", "check", ".")


def test_every_file_is_formatted() -> None:
    run(sys.executable, "-m", "ruff", "format", "--check", ".")


@pytest.mark.timeout(600)
def test_mypy_strict_finds_nothing() -> None:
    run(sys.executable, "-m", "mypy")


@pytest.mark.parametrize("package", DAEMONS)
def test_no_daemon_imports_another(package: str) -> None:
    """They meet in protos/ and selfware_common; imports hidden in functions count too."""
    for path in (ROOT / "daemons" / package).rglob("*.py"):
        for name in imported(path):
            top = name.split(".")[0]
            foreign = top in DAEMONS and top != package and (package, top) not in ALLOWED
            assert not foreign, f"{path.relative_to(ROOT)} imports {name}"


def test_the_common_package_imports_no_daemon() -> None:
    for path in (ROOT / "selfware_common").rglob("*.py"):
        for name in imported(path):
            assert name.split(".")[0] not in DAEMONS, f"{path.relative_to(ROOT)} imports {name}"


def imported(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module)
    return names


def test_generated_stubs_are_fresh() -> None:
    run(sys.executable, "protos/generate.py", "--check")


def test_the_default_configuration_file_is_fresh() -> None:
    run(sys.executable, "packaging/write_selfware_toml.py", "--check")


def test_files_stay_short_and_say_why_they_exist() -> None:
    for path in tracked("daemons/**/*.py", "selfware_common/*.py", "daemons/*/*.py"):
        if "_pb2" in path.name or "demo/tasks" in str(path):
            continue
        text = path.read_text(encoding="utf-8")
        assert text.count("\n") <= MAX_LINES, f"{path.relative_to(ROOT)} has more than {MAX_LINES} lines"
        assert not text or ast.get_docstring(ast.parse(text)), f"{path.relative_to(ROOT)} has no docstring"


def test_broad_excepts_stand_only_at_the_process_edge() -> None:
    for path in tracked("daemons/**/*.py", "selfware_common/**/*.py"):
        if path == ROOT / "selfware_common" / "daemon.py":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ExceptHandler):
                if isinstance(node.body[-1], ast.Raise) and node.body[-1].exc is None:
                    continue  # cleans up and lets the error go on
                broad = node.type is None or (
                    isinstance(node.type, ast.Name) and node.type.id in {"Exception", "BaseException"}
                )
                assert not broad, f"{path.relative_to(ROOT)}:{node.lineno} catches everything"


def test_nothing_names_a_machine_or_a_registry_host() -> None:
    words = [
        r"/wor" + r"k/",
        "pypi" + r"\.org",
        "files" + r"\.pythonhosted",
        "deb" + r"\.debian\.org",
        r"registry\.npm",
    ]
    pattern = re.compile("|".join(words))
    for path in tracked():
        if path.suffix in {".pyc", ".zst", ".png"} or path.name in {"LICENSE"}:
            continue
        found = pattern.search(path.read_text(encoding="utf-8", errors="replace"))
        assert not found, f"{path.relative_to(ROOT)} names {found and found.group()}"
