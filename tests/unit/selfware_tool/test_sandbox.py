"""The bubblewrap command line, the actions' form, and which workspaces are refused. Nothing is run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from selfware_tool import launcher
from selfware_tool.actions import parse_action
from selfware_tool.errors import ActionRefusedError, EffectChangedError, EffectIdError, UnsupportedActionError
from selfware_tool.plan import plan_for
from selfware_tool.refusal import RefusalError
from selfware_tool.request import Features, Limits, PythonHome, Request, unseal_request
from selfware_tool.sandbox import Mount, SandboxSpec, bwrap_argv, environment, gated, is_within
from selfware_tool.workspace import guard_git, require_workspace, resolve_workspace

PYTHON = PythonHome("/opt/python/bin/python3", ("/opt/python", "/srv/here/.venv"), "/opt/python/bin")
SPEC = SandboxSpec("/srv/here", "/srv/here", PYTHON, Limits(), Features())


def positions(argv: list[str], *words: str) -> int:
    """Where these words stand next to each other."""
    size = len(words)
    return next(i for i in range(len(argv)) if tuple(argv[i : i + size]) == words)


def request(workspace: Path, **changes: object) -> Request:
    whole = Request("effect-1", {"run_command": {"argv": ["true"]}}, str(workspace), PYTHON)
    return whole._replace(**changes)  # type: ignore[arg-type]


def test_every_namespace_is_the_sandboxs_own_and_the_network_only_on_request() -> None:
    argv = bwrap_argv(SPEC, ("true",))
    namespaces = {"--unshare-user", "--unshare-ipc", "--unshare-pid", "--unshare-uts", "--unshare-cgroup-try"}
    assert namespaces <= set(argv)
    assert {"--unshare-net", "--disable-userns", "--new-session", "--die-with-parent", "--clearenv"} <= set(argv)
    positions(argv, "--cap-drop", "ALL")
    assert "--unshare-net" not in bwrap_argv(SPEC._replace(network=True), ("true",))
    assert "--disable-userns" not in bwrap_argv(SPEC._replace(features=Features(disable_userns=False)), ("true",))


def test_pins_and_environments_in_the_workspace_are_mounted_over_it() -> None:
    argv = bwrap_argv(SPEC._replace(pins=(Mount("/srv/here/.git/hooks"),)), ("true",))
    workspace = positions(argv, "--bind", "/srv/here", "/srv/here")
    assert positions(argv, "--ro-bind", "/opt/python", "/opt/python") < workspace
    assert positions(argv, "--ro-bind", "/srv/here/.git/hooks", "/srv/here/.git/hooks") > workspace
    assert positions(argv, "--ro-bind", "/srv/here/.venv", "/srv/here/.venv") > workspace
    assert positions(argv, "--remount-ro", "/") > positions(argv, "--remount-ro", "/proc") > workspace


def test_limits_of_zero_are_no_limits() -> None:
    argv = bwrap_argv(SPEC._replace(limits=Limits(memory_bytes=0, processes=7)), ("true",))
    assert "--nproc=7:7" in argv
    assert not [word for word in argv if word.startswith("--as=")]


def test_the_environment_is_ours_and_the_actions_own() -> None:
    given = environment(SPEC._replace(env=(("PATH", "/x"), ("LD_PRELOAD", "y"))))
    assert given["PATH"] == "/x"
    assert environment(SPEC)["PATH"].startswith("/opt/python/bin:")
    assert "LD_PRELOAD" not in environment(SPEC)


@pytest.mark.parametrize(
    ("path", "directory", "within"),
    [("/a/b", "/a", True), ("/a", "/a", True), ("/ab", "/a", False), ("/a", "/", True), ("/", "/a", False)],
)
def test_within_means_whole_names(path: str, directory: str, within: bool) -> None:
    assert is_within(path, directory) is within


@pytest.mark.parametrize(
    "record",
    [
        {},
        {"run_command": {}},
        {"run_command": {"argv": ["a"], "script": "b"}},
        {"run_command": {"argv": ["a\0b"]}},
        {"run_command": {"argv": "ls"}},
        {"run_command": {"argv": ["a"], "env": {"A=B": "c"}}},
        {"run_command": {"argv": ["a"], "shell": True}},
        {"run_command": {"argv": ["a"], "timeout_seconds": float("nan")}},
        {"read_file": {"path": ""}},
        {"read_file": {"path": "a", "offset": -1}},
        {"edit_file": {"path": "a", "old": "", "new": "b"}},
        {"dance": {}},
        {"read_file": {"path": "a"}, "search": {"pattern": "b"}},
    ],
)
def test_a_malformed_action_is_refused(record: dict[str, object]) -> None:
    with pytest.raises(RefusalError):
        parse_action(record)


def test_an_unknown_language_is_refused_with_the_known_ones() -> None:
    with pytest.raises(RefusalError, match=r"python3.*but not 'cobol'"):
        plan_for(parse_action({"run_code": {"language": "cobol", "code": "x"}}), PYTHON, "/srv/here")


@pytest.mark.parametrize("kind", ["http_request", "self_modify", "resource_override", "finish"])
def test_kinds_of_other_versions_have_an_error_of_their_own(kind: str, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedActionError, match=f"does not run {kind} actions"):
        launcher.check(request(tmp_path, action={kind: {}}))


def test_an_action_may_ask_for_less_time_but_not_for_more(tmp_path: Path) -> None:
    def seconds(asked: float) -> float:
        action = {"run_command": {"argv": ["true"], "timeout_seconds": asked}}
        return request(tmp_path, action=action, limits=Limits(timeout_seconds=10)).timeout_seconds()

    assert [seconds(0), seconds(5), seconds(50)] == [10, 5, 10]


def test_a_request_survives_being_written_down(tmp_path: Path) -> None:
    whole = request(tmp_path, forbidden=("/state",), limits=Limits(processes=3), network=True)
    assert unseal_request(whole.seal(), "path") == whole


def test_state_and_system_are_no_workspaces(tmp_path: Path) -> None:
    state = tmp_path / "home" / "oversightd"
    state.mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "home")
    (tmp_path / "file").touch()
    for path in (tmp_path, tmp_path / "home", state, tmp_path / "link", tmp_path / "file", tmp_path / "none"):
        with pytest.raises(RefusalError):
            resolve_workspace(str(path), (str(state),))
    for name in ("/", "/usr/lib", "/etc", "relative"):
        with pytest.raises(RefusalError):
            resolve_workspace(name, ())
    beside = tmp_path / "home" / "workspaces"
    beside.mkdir()
    assert resolve_workspace(str(beside), (str(state),)) == str(beside.resolve())


def test_a_link_in_the_place_of_a_workspace_is_not_followed(tmp_path: Path) -> None:
    workspace, other = tmp_path.resolve() / "workspace", tmp_path / "other"
    workspace.mkdir()
    other.mkdir()
    assert require_workspace(str(workspace), ()) == str(workspace)
    workspace.rmdir()
    workspace.symlink_to(other)
    with pytest.raises(RefusalError, match="by now"):
        require_workspace(str(workspace), ())


def test_a_directory_shown_for_reading_must_not_show_our_state(tmp_path: Path) -> None:
    (tmp_path / "workspace").mkdir()
    python = PYTHON._replace(directories=(str(tmp_path),))
    with pytest.raises(ActionRefusedError, match="contains Selfware's own state"):
        launcher.check(request(tmp_path / "workspace", python=python, forbidden=(str(tmp_path / "state"),)))


def test_the_working_directory_lies_in_the_workspace(tmp_path: Path) -> None:
    for cwd in ("..", "/etc", "a/../../b"):
        with pytest.raises(ActionRefusedError, match="outside the workspace"):
            launcher.check(request(tmp_path, action={"run_command": {"argv": ["true"], "cwd": cwd}}))


def test_git_is_guarded_in_every_form(tmp_path: Path) -> None:
    git = tmp_path / ".git"
    assert guard_git(str(tmp_path)).pins == (Mount(str(git)),)
    (git / "HEAD").touch()
    pins = guard_git(str(tmp_path)).pins
    assert pins == (Mount(str(git), True), Mount(f"{git}/hooks"), Mount(f"{git}/config"))
    (git / "config").write_text("[extensions]\n\tworktreeConfig = true\n")
    assert Mount(f"{git}/config.worktree") in guard_git(str(tmp_path)).pins
    (git / "commondir").write_text("../evil\n")
    with pytest.raises(RefusalError, match="redirects git"):
        guard_git(str(tmp_path))
    (git / "commondir").unlink()
    (git / "hooks").rmdir()
    (git / "hooks").symlink_to("/tmp")
    with pytest.raises(RefusalError, match="symbolic link"):
        guard_git(str(tmp_path))


@pytest.mark.parametrize("effect_id", ["", "..", "a/b", ".hidden", "x" * 129, "a\n", "-a"])
def test_an_effect_id_is_a_plain_name(effect_id: str, tmp_path: Path) -> None:
    with pytest.raises(EffectIdError):
        launcher.prepare(tmp_path, request(tmp_path, effect_id=effect_id))


def test_an_effect_id_never_changes_its_meaning(tmp_path: Path) -> None:
    effects = tmp_path / "effects"
    workspace = tmp_path / "workspace"
    workspace.mkdir()
    first = launcher.prepare(effects, request(workspace))
    assert launcher.prepare(effects, request(workspace)) == first
    with pytest.raises(EffectChangedError):
        launcher.prepare(effects, request(workspace, action={"run_command": {"argv": ["false"]}}))


def test_a_command_whose_runner_died_early_never_begins(tmp_path: Path) -> None:
    command = gated(("touch", str(tmp_path / "ran")))
    assert subprocess.run(command, stdin=subprocess.DEVNULL, check=False).returncode == 125
    assert not (tmp_path / "ran").exists()
    subprocess.run(command, input=b"go\n", check=True)
    assert (tmp_path / "ran").exists()


def test_the_runner_imports_nothing_heavy() -> None:
    code = f"import sys; sys.path[0:0] = {sys.path!r}; import selfware_tool.runner; print(*sys.modules)"
    listed = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=True)
    heavy = {"grpc", "click", "dataclasses", "pathlib", "subprocess", "asyncio", "threading", "inspect", "hashlib"}
    assert not heavy & set(listed.stdout.split())
