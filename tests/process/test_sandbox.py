"""Hostile and unlucky actions against the real sandbox. Each test fails if the protection it names is taken away."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from selfware_common import record
from selfware_tool import cgroup, launcher
from selfware_tool.effect import EffectPaths, EffectState, Result, inspect, read_output
from selfware_tool.probe import probe
from selfware_tool.request import Limits, PythonHome, Request

PROBE = probe()
pytestmark = pytest.mark.skipif(not PROBE.available, reason=f"{PROBE.sentence} {PROBE.hint}")
DEADLINE_SECONDS = 60.0
NORMAL = Limits()


class Bench:
    """A workspace with a git repository, a state directory beside it, and actions run there."""

    def __init__(self, home: Path) -> None:
        self.workspace = home / "workspace"
        self.state = home / "state"
        self.outside = home / "outside"
        for directory in (self.workspace, self.state / "effects", self.outside):
            directory.mkdir(parents=True)
        subprocess.run(["git", "init", "-q", str(self.workspace)], check=True)
        self.count = 0

    def prepare(self, action: dict[str, object], limits: Limits = NORMAL, python: PythonHome | None = None) -> Path:
        self.count += 1
        request = Request(
            effect_id=f"effect-{os.getpid()}-{self.count}",
            action=action,
            workspace=str(self.workspace),
            python=python or launcher.python_home(),
            limits=limits,
            features=PROBE.features,
            forbidden=(str(self.state),),
        )
        return launcher.prepare(self.state / "effects", request)

    def run(self, action: dict[str, object], limits: Limits = NORMAL) -> tuple[Result, str]:
        effect = self.prepare(action, limits)
        assert launcher.launch(effect)
        status = launcher.wait(effect, DEADLINE_SECONDS)
        assert status.result is not None, (status, Path(EffectPaths(str(effect)).runner_log).read_text())
        return status.result, read_output(effect).decode(errors="replace")

    def script(self, text: str, limits: Limits = NORMAL) -> tuple[Result, str]:
        return self.run({"run_command": {"script": text}}, limits)

    def python(self, code: str) -> tuple[Result, str]:
        return self.run({"run_code": {"language": "python", "code": code}})


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        yield server


def wait_until(condition: object, what: str) -> None:
    assert callable(condition)
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"never happened: {what}"
        time.sleep(0.01)


def alive(marker: str) -> list[str]:
    """Command lines on this machine that contain the marker."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0") if entry.name.isdigit() else []
        except OSError:
            continue
        if marker.encode() in words:
            found.append(entry.name)
    return found


def test_the_network_and_abstract_sockets_of_the_machine_are_out_of_reach(
    bench: Bench, listener: socket.socket
) -> None:
    name = f"\0selfware-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX) as abstract:
        abstract.bind(name)
        abstract.listen()
        _result, said = bench.python(
            "import socket\n"
            f"for family, address in ((socket.AF_INET, ('127.0.0.1', {listener.getsockname()[1]})),"
            f" (socket.AF_UNIX, {name!r})):\n"
            "    try: socket.socket(family).connect(address); print('connected')\n"
            "    except OSError as error: print('refused', error.errno)\n"
        )
    assert said.split()[::2] == ["refused", "refused"], said


def test_sockets_state_and_homes_are_invisible(bench: Bench) -> None:
    path = str(bench.outside / "sock")
    (bench.state / "secret").write_text("secret")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)
        _result, said = bench.script(f"ls {path}; ls {bench.state}; ls -A /run /home /tmp/home; cat /proc/1/environ")
    assert "No such file" in said
    assert "secret" not in said
    assert said.count("No such file") >= 3, "neither the socket, the state nor /home exists inside"
    assert "/run:\nselfware\n" in said


def test_nothing_but_the_workspace_and_tmp_can_be_written(bench: Bench) -> None:
    _result, said = bench.script(
        "for place in / /usr /etc /dev /proc/sys/kernel /var /run /run/selfware "
        f"{sys.prefix} {bench.outside}; do"
        " touch $place/x 2>/dev/null && echo wrote $place; done; touch x /tmp/x /dev/shm/x && echo fine"
    )
    assert said == "fine\n"
    assert sorted(os.listdir(bench.workspace.parent)) == ["outside", "state", "workspace"]
    status = (bench.workspace / "x").stat()
    assert (status.st_uid, status.st_gid) == (os.getuid(), os.getgid())


def test_the_kernels_settings_are_read_only_even_for_root(bench: Bench) -> None:
    setting = "/proc/sys/kernel/core_pattern"
    _result, said = bench.script(f'now=$(cat {setting}); echo "$now" 2>/dev/null >{setting} && echo changed')
    assert "changed" not in said


def test_an_action_has_no_capabilities_and_can_make_no_user_namespace(bench: Bench) -> None:
    result, said = bench.script("grep -E 'Cap(Eff|Prm|Bnd)|NoNewPrivs' /proc/self/status; unshare --user true")
    fields = dict(line.split(":\t") for line in said.splitlines() if ":\t" in line)
    assert {fields[name] for name in ("CapEff", "CapPrm", "CapBnd")} == {"0" * 16}
    assert fields["NoNewPrivs"] == "1"
    if PROBE.features.disable_userns:
        assert result.exit_status != 0


def test_only_our_three_descriptors_are_open_and_there_is_no_terminal(bench: Bench) -> None:
    look = "for n in $(seq 0 30); do [ -e /proc/$$/fd/$n ] && echo $n; done; tty; : >/dev/tty"
    result, said = bench.run({"run_command": {"argv": ["sh", "-c", look]}})
    assert said.startswith("0\n1\n2\nnot a tty\n")
    assert result.exit_status != 0


def test_processes_of_the_machine_are_invisible(bench: Bench) -> None:
    _result, said = bench.script("echo /proc/[0-9]* | wc -w; hostname")
    count, name = said.split()
    assert int(count) <= 6
    assert name == "sandbox"


def test_git_works_inside_but_hooks_and_config_cannot_be_planted(bench: Bench) -> None:
    config = (bench.workspace / ".git/config").read_text()
    result, said = bench.script("echo hi > a && git add a && git commit -qm 'add a' && git log --format='%an %s'")
    assert (result.ok, said) == (True, "Selfware add a\n")
    _result, said = bench.script(
        "echo evil > .git/hooks/pre-commit; git config core.fsmonitor evil; rm -rf .git/hooks; mv .git old; "
        "cp -r .git copy; mv .git/config .git/c2; ln -sf /tmp .git/hooks; echo x > .git/config"
    )
    assert (bench.workspace / ".git/config").read_text() == config
    assert not [name for name in os.listdir(bench.workspace / ".git/hooks") if not name.endswith(".sample")]
    assert not (bench.workspace / "old").exists()
    assert "hooks/pre-commit: Read-only file system" in said


def test_a_planted_commondir_is_removed_and_reported(bench: Bench) -> None:
    result, _said = bench.script("mkdir evil; echo ../evil > .git/commondir")
    assert not (bench.workspace / ".git/commondir").exists()
    assert "removed .git/commondir" in result.sentence


def test_a_workspace_without_a_repository_cannot_grow_one(bench: Bench) -> None:
    subprocess.run(["rm", "-rf", str(bench.workspace / ".git")], check=True)
    result, _said = bench.script("git init; rm -rf .git; mkdir -p .git/hooks && echo evil > .git/hooks/pre-commit")
    assert result.exit_status != 0
    assert not list((bench.workspace / ".git").iterdir())


def test_a_git_directory_that_is_a_link_is_refused(bench: Bench) -> None:
    (bench.workspace / ".git").rename(bench.outside / "git")
    (bench.workspace / ".git").symlink_to(bench.outside / "git")
    result, _said = bench.script("touch ran")
    assert not result.ran
    assert "symbolic link" in result.sentence
    assert not (bench.workspace / "ran").exists()


def test_links_out_of_the_workspace_lead_nowhere(bench: Bench) -> None:
    secret = bench.outside / "secret"
    secret.write_text("secret")
    (bench.workspace / "file").symlink_to(secret)
    (bench.workspace / "directory").symlink_to(bench.outside)
    actions: tuple[dict[str, object], ...] = (
        {"read_file": {"path": "file"}},
        {"read_file": {"path": "directory/secret"}},
        {"read_file": {"path": "../outside/secret"}},
        {"write_file": {"path": "file", "content": "evil"}},
        {"write_file": {"path": "directory/new", "content": "evil"}},
        {"edit_file": {"path": "file", "old": "secret", "new": "evil"}},
        {"search": {"pattern": "secret", "path": "directory"}},
        {"run_command": {"argv": ["cat", "file"]}},
        {"run_command": {"script": "echo evil > directory/new"}},
    )
    for action in actions:
        result, said = bench.run(action)
        assert result.exit_status != 0, action
        assert "secret\n" not in said
    assert os.listdir(bench.outside) == ["secret"]
    assert secret.read_text() == "secret"


def test_files_are_written_edited_read_and_searched(bench: Bench) -> None:
    assert bench.run({"write_file": {"path": "src/a.py", "content": "one\ntwo\nthree\n", "executable": True}})[0].ok
    assert stat.S_IMODE((bench.workspace / "src/a.py").stat().st_mode) == 0o755
    assert bench.run({"edit_file": {"path": "src/a.py", "old": "two", "new": "2"}})[1] == "edited src/a.py at line 2\n"
    result, said = bench.run({"edit_file": {"path": "src/a.py", "old": "e", "new": "E"}})
    assert (result.exit_status, "found 3 times" in said) == (1, True)
    assert bench.run({"read_file": {"path": "src/a.py", "offset": "1", "limit": 1}})[1] == "2\n"
    assert bench.run({"search": {"pattern": "^t.r", "glob": "*.py"}})[1] == "src/a.py:3: three\n"
    assert bench.run({"search": {"pattern": "t", "glob": "*.c"}})[1] == "no matches\n"
    result, said = bench.run({"write_file": {"path": ".git/info/attributes", "content": "x"}})
    assert (result.exit_status, "belongs to git" in said) == (1, True)
    assert os.listdir(bench.workspace / "src") == ["a.py"], "no temporary file is left"


def test_pytest_of_this_environment_works_inside(bench: Bench) -> None:
    (bench.workspace / "test_it.py").write_text("def test_it():\n    assert 1 + 1 == 2\n")
    result, said = bench.run({"run_command": {"argv": ["python3", "-m", "pytest", "-q", "test_it.py"]}})
    assert result.ok, said
    assert "1 passed" in said


def test_the_time_limit_ends_the_whole_tree_daemons_and_stubborn_ones_too(bench: Bench) -> None:
    marker = f"98765.{os.getpid()}"
    script = (
        f"setsid -f sleep {marker}; (trap 'echo polite' TERM; sleep {marker}) & "
        f"trap '' TERM; while :; do sleep {marker}; done"
    )
    result, said = bench.script(script, Limits(timeout_seconds=0.6, grace_seconds=0.3))
    assert result.timed_out
    assert result.sentence == "killed by SIGKILL after the time limit of 0.6 s"
    assert "polite" in said
    assert not alive(marker)


def test_what_an_action_leaves_running_ends_with_it(bench: Bench) -> None:
    marker = f"87654.{os.getpid()}"
    result, _said = bench.script(f"setsid -f sleep {marker}; sleep {marker} & exit 3")
    assert result.sentence == "exited with status 3"
    assert not alive(marker)


def test_the_number_of_processes_is_bounded(bench: Bench) -> None:
    if os.geteuid() == 0 and not any(os.access(group, os.W_OK) for group in cgroup._own_groups()):
        pytest.skip("root is not held by RLIMIT_NPROC, and this machine lends no cgroup with a pids limit")
    script = "for i in $(seq 40); do sleep 20 & done; echo all forty"
    result, said = bench.script(script, Limits(processes=12, timeout_seconds=10, grace_seconds=0.1))
    assert "all forty" not in said
    assert "fork" in said.lower()
    assert not result.ok


def test_no_cgroup_is_left_behind(bench: Bench) -> None:
    assert bench.script("true")[0].ok
    mark = f"{cgroup.PREFIX}effect-{os.getpid()}-"
    for group in cgroup._own_groups():
        wait_until(lambda where=group: not list(Path(where).glob(f"{mark}*")), "the group of the action is removed")


def test_a_flood_of_output_is_bounded_on_disk_and_keeps_both_ends(bench: Bench) -> None:
    gigabyte = 1 << 30
    effect = bench.prepare(
        {"run_command": {"script": f"echo first; head -c {gigabyte} /dev/zero; echo last"}},
        Limits(output_bytes=10_000),
    )
    launcher.launch(effect)
    result = launcher.wait(effect, DEADLINE_SECONDS).result
    assert result is not None
    kept = read_output(effect)
    assert len(kept) < 10_100
    assert (kept[:6], kept[-6:]) == (b"first\n", b"\0last\n")
    assert result.output_bytes == gigabyte + 11
    assert result.dropped_bytes == gigabyte + 11 - 10_000


def test_memory_and_file_sizes_are_bounded(bench: Bench) -> None:
    limits = Limits(memory_bytes=512 << 20, file_bytes=1 << 20, temporary_bytes=1 << 20)
    result, said = bench.run({"run_command": {"argv": ["python3", "-c", "bytearray(1 << 30)"]}}, limits)
    assert (result.exit_status, "MemoryError" in said) == (1, True)
    result, _said = bench.run({"run_command": {"argv": ["head", "-c2M", "/dev/zero"]}}, limits)
    assert result.ok, "output is not a file"
    result, _said = bench.script("exec head -c 2M /dev/zero > big", limits)
    assert result.signal == signal.SIGXFSZ
    assert (bench.workspace / "big").stat().st_size == 1 << 20
    if PROBE.features.tmpfs_size:
        for place in ("/tmp", "/dev/shm"):
            result, said = bench.script(
                f"head -c 600K /dev/zero > {place}/a && head -c 600K /dev/zero > {place}/b", limits
            )
            assert "No space left" in said


def test_exit_statuses_and_signals_are_told_in_words(bench: Bench) -> None:
    assert bench.script("exit 0")[0].sentence == "exited with status 0"
    assert bench.script("kill -SEGV $$")[0].sentence == "killed by SIGSEGV"
    result, _said = bench.run({"run_command": {"argv": ["no-such-program"]}})
    assert result.sentence == "exited with status 127 (the program was not found)"


def test_the_action_has_its_environment_and_directory_and_no_other(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SELFWARE_SECRET", "secret")
    (bench.workspace / "sub").mkdir()
    action: dict[str, object] = {"argv": ["sh", "-c", "pwd; env"], "cwd": "sub", "env": {"COLOUR": "green"}}
    _result, said = bench.run({"run_command": action})
    assert said.startswith(f"{bench.workspace}/sub\n")
    assert "COLOUR=green\n" in said
    assert "secret" not in said


def test_an_action_goes_first_when_memory_runs_out(bench: Bench) -> None:
    assert bench.script("cat /proc/self/oom_score_adj")[1] == "800\n"


def test_a_killed_runner_leaves_an_unknown_effect_and_no_process(bench: Bench) -> None:
    marker = f"76543.{os.getpid()}"
    effect = bench.prepare({"run_command": {"script": f"touch began; setsid -f sleep {marker}; sleep {marker}"}})
    launcher.launch(effect)
    wait_until(lambda: (bench.workspace / "began").exists() and len(alive(marker)) == 2, "the action began")
    os.kill(int(Path(EffectPaths(str(effect)).lock).read_text()), signal.SIGKILL)
    status = launcher.wait(effect, DEADLINE_SECONDS)
    assert status.state is EffectState.UNKNOWN
    assert "killed" in status.sentence
    wait_until(lambda: not alive(marker), "everything of the action ended")
    assert not launcher.launch(effect), "what may have had an effect is never run again"
    assert inspect(effect).state is EffectState.UNKNOWN


def test_a_cancelled_action_says_so(bench: Bench) -> None:
    effect = bench.prepare({"run_command": {"script": "touch began; sleep 60"}})
    launcher.launch(effect)
    wait_until((bench.workspace / "began").exists, "the action began")
    assert launcher.cancel(effect)
    status = launcher.wait(effect, DEADLINE_SECONDS)
    assert status.sentence == "killed by SIGTERM because it was cancelled"
    assert not launcher.cancel(effect)


def test_many_launches_run_an_action_once(bench: Bench) -> None:
    effect = bench.prepare({"run_command": {"script": "echo line >> lines; sleep 0.2"}})
    main = Path(launcher.__file__).with_name("__main__.py")
    direct = [subprocess.Popen([sys.executable, str(main), str(effect)]) for _ in range(3)]
    with ThreadPoolExecutor(8) as pool:
        started = list(pool.map(lambda _: launcher.launch(effect), range(8)))
    assert [process.wait(DEADLINE_SECONDS) for process in direct]
    assert launcher.wait(effect, DEADLINE_SECONDS).state is EffectState.DONE
    assert sum(started) <= 1
    assert not launcher.launch(effect)
    assert (bench.workspace / "lines").read_text() == "line\n"


def test_a_second_runner_finds_the_lock_held_and_leaves(bench: Bench) -> None:
    effect = bench.prepare({"run_command": {"script": "touch began; sleep 60"}})
    launcher.launch(effect)
    wait_until((bench.workspace / "began").exists, "the action began")
    main = Path(launcher.__file__).with_name("__main__.py")
    assert subprocess.run([sys.executable, str(main), str(effect)], check=False).returncode == 75
    launcher.cancel(effect)
    assert launcher.wait(effect, DEADLINE_SECONDS).state is EffectState.DONE


def test_waiting_in_an_event_loop_ends_with_the_action(bench: Bench) -> None:
    effect = bench.prepare({"run_command": {"argv": ["sleep", "0.2"]}})
    launcher.launch(effect)
    status = asyncio.run(asyncio.wait_for(launcher.wait_async(effect), DEADLINE_SECONDS))
    assert status.sentence == "exited with status 0"


def test_an_action_outlives_its_launcher_and_everything_in_the_launchers_session(bench: Bench) -> None:
    effect = bench.prepare({"run_command": {"script": "echo line >> lines; sleep 0.3; echo line >> lines"}})
    code = (
        "import os, signal, pathlib; from selfware_tool import launcher;"
        f"launcher.launch(pathlib.Path({str(effect)!r})); os.killpg(0, signal.SIGKILL)"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    killed = subprocess.run([sys.executable, "-c", code], env=environment, start_new_session=True, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert launcher.wait(effect, DEADLINE_SECONDS).state is EffectState.DONE
    assert (bench.workspace / "lines").read_text() == "line\nline\n"


def test_an_ordinary_user_gets_the_same_sandbox(bench: Bench) -> None:
    if os.geteuid() != 0:
        pytest.skip("the other tests ran as an ordinary user already")
    import shutil
    import tempfile

    with tempfile.TemporaryDirectory(dir="/var/tmp") as directory:
        home = Path(directory)
        home.chmod(0o755)
        shutil.copytree(Path(launcher.__file__).parent, home / "selfware_tool")
        shutil.copytree(Path(record.__file__).parent, home / "selfware_common", ignore=shutil.ignore_patterns("rpc"))
        user = Bench(home / "bench")
        script = "touch made; echo $(id -u); for i in $(seq 40); do sleep 20 & done; echo all forty"
        limits = Limits(processes=12, timeout_seconds=10)
        system = PythonHome("/usr/bin/python3", (), "/usr/bin")
        effect = user.prepare({"run_command": {"script": script}}, limits, system)
        subprocess.run(["chown", "-R", "65534:65534", directory], check=True)
        become = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
        python = ["/usr/bin/python3", str(home / "selfware_tool"), str(effect)]
        subprocess.run([*become, *python], cwd="/", check=True)
        said = read_output(effect).decode()
        assert said.startswith("65534\n"), said
        assert "fork" in said
        assert (user.workspace / "made").stat().st_uid == 65534
