"""What the package says is what the tree holds: programs, man pages, settings, message catalog, version, wheels."""

from __future__ import annotations

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tomllib
from importlib import util
from pathlib import Path
from types import ModuleType

import pytest

from selfware_common import __version__, catalog

ROOT = Path(__file__).resolve().parent.parent.parent
PACKAGING = ROOT / "packaging"
SCRIPTS = [
    "build-deb",
    "build-deb-model",
    *(f"debian/selfware.{when}" for when in ("preinst", "postinst", "prerm", "postrm")),
]
CATALOG = PACKAGING / "catalog" / "selfware.catalog"


def deb_tree() -> ModuleType:
    spec = util.spec_from_file_location("deb_tree", PACKAGING / "deb_tree.py")
    assert spec is not None
    assert spec.loader is not None
    module = util.module_from_spec(spec)
    sys.modules["deb_tree"] = module
    spec.loader.exec_module(module)
    return module


TREE = deb_tree()
PROGRAMS = {program.path: program for program in TREE.programs()}


def test_the_man_pages_are_fresh() -> None:
    done = subprocess.run(
        [sys.executable, "packaging/write_man_pages.py", "--check"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.skipif(not shutil.which("groff"), reason="groff is not installed")
@pytest.mark.parametrize("page", sorted((PACKAGING / "man").iterdir()), ids=lambda page: page.name)
def test_troff_has_nothing_to_say_about_a_man_page(page: Path) -> None:
    done = subprocess.run(
        ["groff", "-man", "-Tutf8", "-Kutf8", "-ww", "-z", str(page)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert not done.stderr


@pytest.mark.parametrize("path", PROGRAMS)
def test_every_program_of_the_table_is_there(path: str) -> None:
    source = PROGRAMS[path].source
    if source.startswith("./"):
        assert (PACKAGING / source).is_file()
        return
    found = util.find_spec(source)
    assert found is not None
    assert found.origin is not None
    assert re.search(r"^def main\(\)", Path(found.origin).read_text(encoding="utf-8"), re.MULTILINE)


def test_units_start_only_programs_of_the_table() -> None:
    units = [path for path in (ROOT / "units").rglob("*") if path.is_file()]
    started = set()
    for path in units:
        for line in re.findall(r"^Exec\w+=[-@:+!]*(\S+)", path.read_text(encoding="utf-8"), re.MULTILINE):
            if line.startswith("/usr/lib/selfware"):
                started.add(line)
    assert started
    assert started <= set(PROGRAMS)


def test_the_packaged_settings_are_the_defaults() -> None:
    """The conffile is packaging/selfware.toml, which test_code_style proves fresh."""
    assert "packaging/selfware.toml etc/selfware" in " ".join(
        (PACKAGING / "debian/selfware.install").read_text(encoding="utf-8").split()
    )


def test_the_changelog_is_at_this_version() -> None:
    first = (PACKAGING / "debian/changelog").read_text(encoding="utf-8").splitlines()[0]
    assert first.startswith(f"selfware ({__version__}) ")


def entries() -> dict[str, str]:
    parts = re.split(r"^-- ([0-9a-f]{32})\n", CATALOG.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def test_the_journal_explains_every_event_and_no_other() -> None:
    named = {value for name, value in vars(catalog).items() if name.isupper() and isinstance(value, str)}
    assert set(entries()) == named == set(catalog.FIELDS)


@pytest.mark.parametrize(("message_id", "fields"), catalog.FIELDS.items())
def test_an_explanation_names_only_fields_that_the_event_carries(message_id: str, fields: tuple[str, ...]) -> None:
    text = entries()[message_id]
    assert set(re.findall(r"@(\w+)@", text)) == {f"SELFWARE_{name.upper()}" for name in fields}
    assert text.startswith("Subject: ")
    assert "\n\n" in text


def test_every_shipped_wheel_is_needed_and_every_needed_wheel_is_shipped() -> None:
    """The lock less what is left out is exactly what a running Selfware imports, and what that needs."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    names = [
        *project["dependencies"],
        *project["optional-dependencies"]["embedded"],
        *project["optional-dependencies"]["s3"],
    ]
    needed: set[str] = set()
    while names:
        words = re.split(r"\s*;\s*", names.pop(), maxsplit=1)
        name = re.split(r"[^\w.-]", words[0], maxsplit=1)[0].lower().replace("_", "-")
        elsewhere = len(words) > 1 and re.search("extra|win|Windows|python_version < .3.1[01]", words[1])
        if name not in needed and not elsewhere:
            needed.add(name)
            names += importlib.metadata.requires(name) or []
    shipped = {name for name, _text in TREE.locked()} - {"colorama"}  # Windows only, by its marker
    assert shipped == {re.sub(r"[._]", "-", name) for name in needed}


@pytest.mark.skipif(not shutil.which("bash"), reason="bash is not installed")
def test_bash_completes_a_command_after_its_first_letters(tmp_path: Path) -> None:
    where = [str(ROOT), str(ROOT / "daemons"), *(path for path in sys.path if "site-packages" in path)]
    script = TREE.completion("bash", where)
    program = tmp_path / "selfwarectl"
    text = f"#!{sys.executable}\nimport sys; sys.path[:0] = {where!r}\nfrom selfwarectl.__main__ import main; main()\n"
    program.write_text(text, encoding="utf-8")
    program.chmod(0o755)
    ask = "COMP_WORDS=(selfwarectl st); COMP_CWORD=1; _selfwarectl_completion selfwarectl; echo ${COMPREPLY[@]}"
    done = subprocess.run(
        ["bash", "--norc", "-c", f"{script}\n{ask}"],
        env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert set(done.stdout.split()) >= {"status", "start", "stop"}, done.stderr


@pytest.mark.parametrize("shell", TREE.COMPLETIONS)
def test_there_is_a_completion_for_every_shell(shell: str) -> None:
    where = [str(ROOT), str(ROOT / "daemons"), *(path for path in sys.path if "site-packages" in path)]
    assert "_SELFWARECTL_COMPLETE" in TREE.completion(shell, where)


@pytest.mark.parametrize("script", SCRIPTS)
def test_the_shell_scripts_parse(script: str) -> None:
    text = re.sub("#(USERS|GROUPS)#", "name", (PACKAGING / script).read_text(encoding="utf-8"))
    done = subprocess.run(["sh", "-n"], input=text, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_oversightd_may_open_what_checkpointd_makes_and_nothing_else_of_the_others() -> None:
    lines = (PACKAGING / "tmpfiles/selfware.conf").read_text(encoding="utf-8").splitlines()
    granted = {line.split()[1] for line in lines if line.startswith("a+ /run/") and "u:selfware-oversightd" in line}
    assert granted == {"/run/selfware/checkpointd"}
    rights = ",".join(line.split()[-1] for line in lines if line.startswith("a+ /run/selfware/checkpointd "))
    assert {"u:selfware-oversightd:rx", "d:u:selfware-oversightd:rw", "d:o::-"} <= set(rights.split(","))
