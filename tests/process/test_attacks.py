"""What an attacker who owns the model and the agent would try, with the real programs. Each was a way in once."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from selfware_tool.probe import probe
from tests.process.test_oversightd import Stack, bare
from tests.process.test_sandbox import Bench

__all__ = ["bare"]  # a fixture

PROBE = probe()
pytestmark = pytest.mark.skipif(not PROBE.available, reason=f"{PROBE.sentence} {PROBE.hint}")

EVIL = """
printf '#!/bin/sh\\ntouch {executed}\\n' > evil; chmod +x evil
obey() {{ printf '[core]\\n\\tfsmonitor = {workspace}/evil\\n' >> "$1"; }}
bare() {{ mkdir -p "$1/objects" "$1/refs"; echo 'ref: refs/heads/main' > "$1/HEAD"
          printf '[core]\\n repositoryformatversion = 0\\n bare = false\\n worktree = {workspace}\\n' > "$1/config"
          git --git-dir="$1" add evil; obey "$1/config"; }}
nested() {{ git init -q "$1"; git -C "$1" commit -q --allow-empty -m x; obey "$1/.git/config"; git add "$1"; }}
"""
PLANTS = {
    "a bare repository in the workspace itself, its own being broken": "rm .git/HEAD; bare .",
    "a bare repository in a directory": "bare docs",
    "a repository that the index names": "nested sub",
    "a repository deep below": "mkdir -p a/b/c; nested a/b/c",
    "a link to a repository": "bare store; chmod 555 store; mkdir sub; ln -s ../store sub/.git; git add sub",
    "a file that points to a repository": "bare store; mkdir sub; echo 'gitdir: ../store' > sub/.git; git add sub",
    "a repository in one without HEAD": "git init -q out; nested out/sub; rm out/.git/HEAD",
    "the config of a submodule": "obey .git/modules/lib/config",
    "the config of a repository of the operator": "obey plain/.git/config; git add plain",
    "a submodule moved away and built again": "mv .git/modules m; cp -r m .git/modules; obey .git/modules/lib/config",
    "a repository moved away and built again": "mv plain p; cp -r p plain; obey plain/.git/config; git add plain p",
    "commondir in a repository of the operator": "bare x; echo ../../x > plain/.git/commondir; git add plain",
}


def git(directory: Path, *words: str) -> str:
    identity = ["-c", "user.name=x", "-c", "user.email=x@localhost", "-c", "protocol.file.allow=always"]
    argv = ["git", *identity, *words]
    return subprocess.run(argv, cwd=directory, capture_output=True, text=True, check=False, timeout=60).stdout


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """With a submodule `lib` and a repository `plain` that belong to the operator."""
    made = Bench(tmp_path)
    upstream, plain = tmp_path / "upstream", made.workspace / "plain"
    for directory in (upstream, plain):
        git(tmp_path, "init", "-q", str(directory))
        git(directory, "commit", "-q", "--allow-empty", "-m", "begin")
    git(made.workspace, "submodule", "--quiet", "add", str(upstream), "lib")
    git(made.workspace, "commit", "-q", "-m", "begin")
    assert (made.workspace / ".git/modules/lib/config").exists()
    return made


@pytest.mark.parametrize("plant", PLANTS.values(), ids=PLANTS.keys())
def test_no_git_run_of_the_operator_executes_what_an_action_planted(bench: Bench, plant: str) -> None:
    executed = bench.outside / "executed"
    bench.script(EVIL.format(executed=executed, workspace=bench.workspace) + plant)
    inside = [Path(top) for top, _, _ in os.walk(bench.workspace) if "/.git/" not in f"{top}/"]
    assert bench.workspace in inside
    for directory in inside:
        for words in (["status"], ["diff"], ["log", "--oneline"]):
            git(directory, *words)
        assert not executed.exists(), directory


def test_files_written_one_by_one_make_no_repository(bench: Bench) -> None:
    for path in ("HEAD", "objects/x", "refs/x", "config"):
        bench.run({"write_file": {"path": f"docs/{path}", "content": "ref: refs/heads/main\n"}})
    assert not (bench.workspace / "docs/HEAD").exists()


def test_the_operators_own_repositories_work_and_survive(bench: Bench) -> None:
    result, said = bench.script(
        "cd lib && echo a > a && git add a && git commit -qm inner && cd .. && git add lib && git commit -qm outer &&"
        " git -C plain commit -q --allow-empty -m p && mv plain moved && git -C moved log --format=%s && git status -s"
    )
    assert (result.ok, result.sentence) == (True, "exited with status 0"), said
    assert said.splitlines() == ["p", "begin", "?? moved/"]
    assert git(bench.workspace, "log", "--format=%s").split() == ["outer", "begin"]
    assert git(bench.workspace / "lib", "log", "--format=%s").split() == ["inner", "begin"]


def test_a_planted_directory_with_a_hostile_name_is_told_as_text(bench: Bench) -> None:
    result, _ = bench.script("name=$(printf 'x\\377\\033[2J'); git init -q \"$name\"")
    assert "removed x\\udcff" in result.sentence
    result.sentence.encode()


def test_a_commondir_that_is_a_directory_is_removed_too(bench: Bench) -> None:
    result, _ = bench.script("mkdir -p .git/commondir/x; chmod 0 .git/commondir/x")
    assert "removed .git/commondir" in result.sentence
    assert not (bench.workspace / ".git/commondir").exists()


@pytest.mark.parametrize("argv", [["echo", "x" * 200_000], ["echo", *["x" * 1000] * 4000], ["echo", "\ud800"]])
def test_a_command_that_the_kernel_cannot_start_was_not_run_and_says_so(bench: Bench, argv: list[str]) -> None:
    result, _ = bench.run({"run_command": {"argv": argv}})
    assert not result.ran
    assert result.sentence.startswith("not run: the command cannot be started: ")


def test_selfware_and_its_interpreter_are_no_workspaces(bare: Stack, tmp_path: Path) -> None:
    bare.start()
    ours = Path(__file__).parents[2]
    (tmp_path / "link").symlink_to(ours)
    for place in (
        ours,
        ours / "daemons",
        ours / "daemons/selfware_tool",
        ours / "selfware_common",
        sys.prefix,
        tmp_path / "link",
    ):
        status, answer = bare.post("/goals", goal_id="x", workspace=str(place), check=[])
        assert status == 400, place
        assert "Selfware's own program" in answer["error"]["sentence"]
    assert bare.post("/goals", goal_id="x", workspace=str(bare.workspace), check=[])[0] == 201


@pytest.mark.parametrize(
    "path", [f"/interventions/appr-{'1' * 5000}", f"/audit?limit=1{'0' * 30}", f"/audit?limit=01{'0' * 5000}"]
)
def test_no_number_is_too_long_for_the_operator_api(bare: Stack, path: str) -> None:
    bare.start()
    status, answer = bare.get(path)
    assert status in {400, 404}
    assert answer["error"]["sentence"]


DIG = "python3 -c \"import os\nfor i in range(3000): os.mkdir('d'); os.chdir('d')\""


def test_a_planted_repository_of_hostile_depth_is_put_out_of_the_way(bench: Bench) -> None:
    result, _ = bench.script(f"git init -q sub; cd sub/.git; {DIG}; cd ../../plain/.git; mkdir config.worktree")
    try:
        assert result.sentence.startswith("exited with status 0; removed ")
        assert not (bench.workspace / "sub/.git").exists()
        assert not list((bench.workspace / "sub").glob("*/HEAD"))
        assert not (bench.workspace / "plain/.git/config.worktree").exists()
    finally:
        subprocess.run(["rm", "-rf", str(bench.workspace)], check=True)  # pytest could not


def test_a_search_in_bottomless_directories_is_told_in_words(bench: Bench) -> None:
    bench.script(DIG)
    try:
        result, said = bench.run({"search": {"pattern": "x", "path": "."}})
        assert (result.exit_status, said) == (1, "search: the directories are nested too deeply\n")
    finally:
        subprocess.run(["rm", "-rf", str(bench.workspace)], check=True)  # pytest could not
