"""What is allowed, asked about and forbidden, case by case; the nasty ones above all."""

from __future__ import annotations

import pytest

from selfware_common.rpc import oversight_pb2 as pb
from selfware_oversightd.canonical import read_proposal
from selfware_oversightd.policy import Decision, Goal, Rules, Verdict, decide

CHECK = ("python3", "-m", "pytest", "-q")
GOAL = Goal("t", "/w", CHECK, commit=True)
ALLOW, ASK, FORBID = Verdict.ALLOW, Verdict.ASK, Verdict.FORBID


def command(*argv: str, **more: object) -> pb.Action:
    return pb.Action(run_command=pb.RunCommand(argv=argv, **more))  # type: ignore[arg-type]


def script(text: str) -> pb.Action:
    return pb.Action(run_command=pb.RunCommand(script=text))


def write(path: str) -> pb.Action:
    return pb.Action(write_file=pb.WriteFile(path=path, content="x"))


def judged(action: pb.Action, rules: Rules = Rules(), goal: Goal | None = GOAL, workspace: str = "/w") -> Decision:  # noqa: B008
    request = pb.PerformRequest(effect_id="e", action=action, workspace=workspace, task_id="t")
    return decide(read_proposal(request), workspace, goal, rules)


@pytest.mark.parametrize(
    "path", ["a.py", "src/a.py", "./a.py", "a b.py", "ä.py", ".gitignore", "x.git", "..a/b", "a..b"]
)
def test_files_inside_the_workspace_are_allowed(path: str) -> None:
    for action in (
        write(path),
        pb.Action(read_file=pb.ReadFile(path=path)),
        pb.Action(edit_file=pb.EditFile(path=path, old="a", new="b")),
        pb.Action(search=pb.Search(pattern="x", path=path)),
    ):
        assert judged(action).verdict is ALLOW


@pytest.mark.parametrize(
    "path",
    [
        "/etc/passwd",
        "../x",
        "a/../../x",
        "a/..",
        ".git/hooks/pre-commit",
        ".GIT/config",
        "a/.git/config",
        "./.git",
        ".git./config",
        ".git /config",
        "git~1/config",
        "-rf",
        ":(top)x",
        "~/x",
        "a\nb",
        "a\x1b[2Jb",
        "a\u202eb",
    ],
)
def test_paths_that_lead_out_or_into_git_or_deceive_are_asked_about(path: str) -> None:
    assert judged(write(path)).verdict is ASK
    assert judged(write(path), Rules(auto_approve=("*",))).verdict is ASK


def test_a_path_with_a_nul_or_an_empty_one_is_refused() -> None:
    assert judged(write("a\0b")).verdict is FORBID
    assert judged(write("")).verdict is FORBID


def test_the_registered_check_is_allowed_only_exactly() -> None:
    assert judged(command(*CHECK)).rule == "the check registered with the goal"
    assert judged(command(*CHECK, timeout_seconds=5)).verdict is ALLOW
    for action in (
        command(*CHECK, "-x"),
        command(*CHECK[:-1]),
        command(*CHECK, cwd="sub"),
        command(*CHECK, env={"PYTHONPATH": "/x"}),
        command("/usr/bin/python3", *CHECK[1:]),
        command(*CHECK[:-1], CHECK[-1] + " "),
        script(" ".join(CHECK)),
    ):
        assert judged(action).verdict is ASK


def test_without_a_check_no_command_is_the_check() -> None:
    goal = Goal("t", "/w", (), commit=False)
    assert judged(command("true"), goal=goal).verdict is ASK


@pytest.mark.parametrize(
    "line",
    [
        "git add -A",
        "git add -- a.py b/c.py",
        "git commit -q -m message",
        "git commit -q -m -x",
        "git commit -q -m x -- a.py b/c.py",
        "git status --porcelain",
        "git rev-parse HEAD",
        "git diff",
        "git diff HEAD",
        "git diff --stat",
        "git diff --stat HEAD",
        "git log --oneline",
        "git log --oneline -n 5",
        "git checkout -- a.py",
        "git clean -f -- a.py",
    ],
)
def test_git_steps_are_allowed_for_a_goal_that_may_commit_and_asked_about_otherwise(line: str) -> None:
    assert judged(command(*line.split())).verdict is ALLOW
    assert judged(command(*line.split()), goal=Goal("t", "/w", CHECK, commit=False)).verdict is ASK


@pytest.mark.parametrize(
    "line",
    [
        "git",
        "git push",
        "git add .",
        "git add a.py",
        "git add --",
        "git add -- ../x",
        "git add -- -f",
        "git add -- :/",
        "git add -- .git/config",
        "git commit -q -m a --no-verify",
        "git commit -q -m a --",
        "git commit -q -m a a.py",
        "git commit -q -m a -- :/",
        "git commit -q -m a -- ../x",
        "git commit -m a",
        "git commit -q -a -m",
        "git commit --amend -q -m a",
        "git -c core.pager=sh log --oneline",
        "git log --oneline -n x",
        "git log --oneline --output=/x",
        "git diff --ext-diff",
        "git diff --output=x HEAD",
        "git checkout HEAD -- a",
        "git checkout -- /etc/x",
        "git clean -f",
        "git clean -fdx",
        "git clean -f -d -- a",
        "git rev-parse --git-dir",
        "/usr/bin/git status --porcelain",
        "git config core.hooksPath x",
    ],
)
def test_other_git_forms_are_asked_about(line: str) -> None:
    assert judged(command(*line.split())).verdict is ASK


def test_an_empty_commit_message_is_asked_about() -> None:
    assert judged(command("git", "commit", "-q", "-m", " ")).verdict is ASK


@pytest.mark.parametrize(
    "line", ["ls", "ls -la src", "cat a.py", "head -n 5 a.py", "tail -n 5 a.py", "wc -l a.py", "pwd"]
)
def test_plain_reading_is_allowed(line: str) -> None:
    assert judged(command(*line.split())).verdict is ALLOW


@pytest.mark.parametrize(
    "line",
    [
        "cat /etc/passwd",
        "cat ../x",
        "cat .git/config",
        "ls --color=always",
        "tail -f a",
        "tail -F a",
        "tail --follow a",
        "cat -",
        "pwd -P",
        "/bin/ls",
        "./ls",
        "rm a",
        "cp a b",
        "find .",
        "make test",
        "sh -c ls",
        "python3 a.py",
    ],
)
def test_everything_else_is_asked_about(line: str) -> None:
    assert judged(command(*line.split())).verdict is ASK


@pytest.mark.parametrize(
    "action",
    [
        script("ls"),
        pb.Action(run_code=pb.RunCode(language="python", code="1")),
        pb.Action(http_request=pb.HttpRequest(method="GET", url="http://localhost")),
        pb.Action(self_modify=pb.SelfModify(component="agent", diff="x")),
        pb.Action(resource_override=pb.ResourceOverride(resource="gpu", requested=1)),
    ],
)
def test_scripts_code_network_and_ourselves_are_asked_about(action: pb.Action) -> None:
    assert judged(action).verdict is ASK


def test_changing_ourselves_is_asked_about_whatever_is_approved_by_pattern() -> None:
    for action in (
        pb.Action(self_modify=pb.SelfModify(component="agent", diff="x")),
        pb.Action(resource_override=pb.ResourceOverride(resource="gpu", requested=1)),
    ):
        assert judged(action, Rules(auto_approve=("*",))).verdict is ASK


@pytest.mark.parametrize(
    "argv",
    [
        "sh -c x",
        "/bin/bash x",
        "./bash x",
        "dash x",
        "python x",
        "python3 x",
        "python3.11 x",
        "/usr/bin/python3.12 -m x",
        "pypy3 x",
        "perl -e x",
        "perl5.36.0 x",
        "ruby x",
        "node x",
        "nodejs x",
        "lua5.4 x",
        "php8.2 x",
        "gawk x",
        "sed s/x/y/e",
        "vim x",
        "env ls",
        "xargs ls",
        "sudo ls",
        "nohup ls",
        "timeout 5 ls",
        "nice ls",
        "busybox sh",
        "ssh host",
        "find . -exec ls ;",
        "find . -delete",
        "find . -execdir ls ;",
        "git -c alias.x=!sh x",
        "git --exec-path=/tmp status",
        "git --config-env=a=b status",
        "git config x y",
        "git submodule foreach ls",
        "git rebase -x ls",
        "git bisect run ls",
        "tar --to-command=sh -xf a",
        "tar --checkpoint-action=exec=sh -cf a b",
        "tar -Ish -xf a",
        "rsync -e sh a b",
        "make --eval=x",
        "awk x",
        "tclsh8.6 x",
        "ld-linux-x86-64.so.2 /bin/sh",
        "gdb x",
        "npx x",
    ],
)
def test_no_pattern_approves_an_interpreter_or_what_acts_as_one(argv: str) -> None:
    assert judged(command(*argv.split()), Rules(auto_approve=("*",))).verdict is ASK


def test_patterns_approve_plain_commands_but_no_script_environment_or_code() -> None:
    rules = Rules(auto_approve=("SystemCommand: cargo *", "CodeExecution: *", "SystemCommand: sh -c *"))
    assert judged(command("cargo", "test"), rules) == Decision(ALLOW, "auto_approve pattern 'SystemCommand: cargo *'")
    assert judged(command("cargo", "test", cwd="sub"), rules).verdict is ALLOW
    for action in (
        command("cargo", "test", env={"RUSTC": "/x"}),
        command("cargo", "test", cwd="../x"),
        command("/tmp/cargo", "test"),
        script("cargo test"),
        pb.Action(run_code=pb.RunCode(language="python", code="1")),
        pb.Action(run_code=pb.RunCode(language="cargo", code="test")),
    ):
        assert judged(action, rules).verdict is ASK


def test_forbid_beats_ask_beats_allow() -> None:
    everything = ("*",)
    assert judged(write("a"), Rules(everything, everything, everything)).verdict is FORBID
    assert judged(write("a"), Rules((), everything, everything)).verdict is ASK
    assert judged(command(*CHECK), Rules((), everything, everything)).verdict is ASK
    assert judged(command("touch", "a"), Rules((), (), everything)).verdict is ALLOW


def test_a_forbidden_program_stays_forbidden_when_named_by_its_path() -> None:
    rules = Rules(auto_reject=("SystemCommand: rm *",))
    for argv in ("rm -rf x", "/bin/rm -rf x", "./rm x"):
        decision = judged(command(*argv.split()), rules)
        assert decision == Decision(FORBID, "auto_reject pattern 'SystemCommand: rm *'")


@pytest.mark.parametrize("path", ["./keys/x", ".//keys/x", "keys/./x", "keys//x", "keys/a b", "./keys/a b", "keys/'"])
def test_a_forbidden_path_stays_forbidden_however_it_is_spelled(path: str) -> None:
    rules = Rules(
        auto_reject=("FileModification: write keys/*", "FileModification: search * in keys/*"),
        require_approval=("SystemCommand: cat keys/*",),
    )
    assert judged(write(path), rules).verdict is FORBID
    assert judged(pb.Action(search=pb.Search(pattern="a b", path=path)), rules).verdict is FORBID
    for program in ("cat", "/bin/cat"):
        assert judged(command(program, path), rules).verdict is ASK
    assert judged(write(path)).verdict is ALLOW


def test_what_would_be_asked_is_refused_when_asking_is_disabled() -> None:
    decision = judged(command("touch", "a"), Rules(may_ask=False))
    assert decision.verdict is FORBID
    assert "asking is disabled" in decision.rule
    assert judged(write("a"), Rules(may_ask=False)).verdict is ALLOW


def test_nothing_is_allowed_without_a_goal_or_in_another_workspace() -> None:
    finish = pb.Action(finish=pb.Finish(summary="done"))
    for action in (write("a"), command(*CHECK), finish):
        assert judged(action, goal=None).verdict is FORBID
        assert judged(action, workspace="/w2").verdict is FORBID
    assert judged(finish).verdict is ALLOW
    assert judged(finish, Rules(auto_reject=("*",))).verdict is ALLOW


def test_a_malformed_command_is_refused_in_words() -> None:
    both = pb.Action(run_command=pb.RunCommand(argv=["ls"], script="ls"))
    for action in (both, command(), command(""), command("a\0b")):
        assert judged(action).verdict is FORBID
        assert judged(action).rule.startswith("it cannot be run as written: ")
