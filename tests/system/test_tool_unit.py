"""What an action can reach from inside a tool unit: its workspace, and nothing else."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.system import installed
from tests.system.conftest import MachineFactory
from tests.system.machine import Machine

WORKSPACE = "/var/lib/selfware/workspaces/w"


@pytest.fixture(scope="module")
def box(machine_factory: MachineFactory) -> Iterator[Machine]:
    with machine_factory() as machine:
        installed.put_on(machine)
        machine.shell("useradd -m -G selfware-operators olga; echo secret > /home/olga/s; chmod 644 /home/olga/s")
        machine.shell("mkdir -p /var/lib/selfware/workspaces/other; echo theirs > /var/lib/selfware/workspaces/other/f")
        yield machine


def refused(box: Machine, script: str) -> str:
    """The script ends with an error; what it said."""
    told = installed.script(box, script)
    assert told["ran"], told
    assert told["exit_status"] != 0, told
    return str(told["output"])


def test_an_action_runs_as_its_own_user_without_any_capability(box: Machine) -> None:
    told = installed.script(
        box, "id -un; grep -E 'Cap(Prm|Eff|Inh|Amb)' /proc/self/status; grep NoNewPrivs /proc/self/status"
    )
    words = told["output"].split()
    assert words[0] == "selfware-tool"
    assert set(words[2:9:2]) == {"0000000000000000"}
    assert words[-1] == "1"


def test_an_action_writes_its_workspace_and_its_own_tmp(box: Machine) -> None:
    told = installed.script(box, "echo mine > f && echo x > /tmp/x && echo y > /dev/shm/y && cat f")
    assert told["ok"], told
    assert box.read(f"{WORKSPACE}/f") == "mine\n"


def test_operators_and_actions_can_change_each_others_files(box: Machine) -> None:
    installed.script(box, "mkdir -p d && echo action > d/made")
    box.run("sh", "-c", f"echo operator >> {WORKSPACE}/d/made && echo new > {WORKSPACE}/d/by_olga", user="olga")
    told = installed.script(box, "echo again >> d/by_olga && rm d/made && cat d/by_olga")
    assert told["output"] == "new\nagain\n", told


@pytest.mark.parametrize(
    "socket",
    [
        "agent/api.sock",
        "checkpointd/bulk.sock",
        "checkpointd/api.sock",
        "inferenced/api.sock",
        "resourced/api.sock",
        "oversightd/agent.sock",
        "oversightd/operator.sock",
        "engine/scripted.sock",
        "tool.sock",
    ],
)
def test_no_socket_of_selfware_can_be_reached(box: Machine, socket: str) -> None:
    box.wait_for(f"test -S /run/selfware/{socket}", 30)
    code = f"import socket; socket.socket(socket.AF_UNIX).connect('/run/selfware/{socket}')"
    assert "No such file" in refused(box, f'python3 -c "{code}"')


@pytest.mark.parametrize(
    "socket",
    ["/run/dbus/system_bus_socket", "/run/systemd/private", "/run/systemd/journal/socket", "/run/systemd/notify"],
)
def test_no_socket_of_the_system_can_be_reached(box: Machine, socket: str) -> None:
    code = f"import socket; socket.socket(socket.AF_UNIX, socket.SOCK_STREAM).connect('{socket}')"
    assert "No such file" in refused(box, f'python3 -c "{code}"')


@pytest.mark.parametrize(
    "command",
    [
        "systemd-run true",
        "systemctl stop selfware-agent",
        "busctl list",
        "sudo -n true",
        "su -c true root",
        "at now </dev/null",
        "selfwarectl status",
        "selfwarectl approvals ls",
        "selfwarectl pause",
    ],
)
def test_no_way_to_have_somebody_else_run_something(box: Machine, command: str) -> None:
    refused(box, command)


@pytest.mark.parametrize(
    "script",
    [
        "cat /proc/$(pgrep -f selfware-oversightd | head -1)/environ",
        "ls /proc/2/root/ && test $(ls -d /proc/[0-9]* | wc -l) -gt 30",
        "ls /var/lib/selfware/oversightd",
        "ls /var/lib/selfware/checkpointd",
        "ls /var/lib/selfware/tool",
        "cat /etc/selfware/selfware.toml",
        "cat /home/olga/s",
        "ls /root",
        "cat /var/lib/selfware/workspaces/other/f",
        "echo x > /var/lib/selfware/workspaces/other/g",
        "echo x > /usr/lib/selfware/app/x",
        "echo x > /etc/x",
        "echo core > /proc/sys/kernel/core_pattern",
        "cat /dev/kmsg",
        "ls /sys/class",
        "ls /boot",
        "ls /srv",
    ],
)
def test_nothing_of_anybody_else_can_be_read_or_changed(box: Machine, script: str) -> None:
    refused(box, script)


def test_an_action_sees_no_process_but_its_own(box: Machine) -> None:
    told = installed.script(box, "ls -d /proc/[0-9]* | wc -l; ps -e -o comm= | sort -u")
    assert set(told["output"].split()[1:]) <= {"sandbox", "sh", "ps", "sort"}, told


def test_what_was_mounted_while_the_sandbox_waited_is_read_only_or_not_there(box: Machine) -> None:
    mount = "mkdir -p /opt/late && mount -t tmpfs -o mode=1777 tmpfs /opt/late"
    try:
        action = {"run_command": {"script": "echo x > /opt/late/f; echo x > /opt/f; ls /opt/late"}}
        told = installed.act(box, action, WORKSPACE, between=mount)
        assert told["output"].count("Read-only") + told["output"].count("Permission denied") == 2, told
        assert not box.exists("/opt/late/f")
    finally:
        box.run("umount", "/opt/late")


def test_a_waiting_sandbox_that_ran_out_of_memory_is_replaced(box: Machine) -> None:
    kill = "pkill -KILL -u selfware-tool -x sandbox"
    told = installed.act(box, {"run_command": {"script": "echo fine"}}, WORKSPACE, between=kill)
    assert (told["ok"], told["output"]) == (True, "fine\n"), told


def test_an_action_whose_monitor_is_killed_counts_as_one_that_ran(box: Machine) -> None:
    box.shell(f"rm -f {WORKSPACE}/did")
    kill = (
        f"(until test -e {WORKSPACE}/did; do sleep 0.05; done; "
        "kill -KILL $(ps -o ppid= -p $(pgrep -u selfware-tool -x sandbox))) >/dev/null 2>&1 &"
    )
    told = installed.act(box, {"run_command": {"script": "echo it > did; sleep 20"}}, WORKSPACE, between=kill)
    assert box.read(f"{WORKSPACE}/did") == "it\n"
    assert (told["ran"], told["ok"], told["sentence"]) == (True, False, "killed by SIGKILL"), told


def test_names_that_are_no_text_do_not_spoil_the_workspace_for_later_actions(box: Machine) -> None:
    assert installed.script(box, "mkdir -p sub && git init -q sub")["ok"]
    assert installed.script(box, "mv sub $(printf '\\377')")["ok"]
    told = installed.script(box, "rm -rf $(printf '\\377')/x; mv $(printf '\\377') sub && echo back")
    assert told["output"] == "back\n", told
    box.shell(f"rm -rf {WORKSPACE}/sub")


def test_a_unit_that_waited_while_the_journal_was_restarted_still_tells_it(box: Machine) -> None:
    restart = "systemctl restart systemd-journald.socket systemd-journald-dev-log.socket systemd-journald.service"
    told = installed.act(box, {"run_command": {"script": "echo after a restart"}}, WORKSPACE, between=restart)
    assert told["ok"], told
    box.wait_for(f"journalctl -o cat SELFWARE_EFFECT_ID={told['effect_id']} | grep -qx 'after a restart'", 10)


def test_there_is_no_network_but_its_own_loopback(box: Machine) -> None:
    code = "import socket; s=socket.create_server(('127.0.0.1', 0)); socket.create_connection(s.getsockname())"
    assert installed.script(box, f'python3 -c "{code}"')["ok"]
    code = "import socket; socket.create_connection(('10.0.0.1', 80), 3)"
    assert "unreachable" in refused(box, f'python3 -c "{code}"').lower()
    refused(box, 'python3 -c "import socket; socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)"')


@pytest.mark.parametrize("flags", ["-U", "-m", "-p -f", "-n", "-i", "-u", "-Ur"])
def test_no_further_namespace_can_be_made(box: Machine, flags: str) -> None:
    refused(box, f"unshare {flags} true")


def test_the_runner_can_be_neither_signalled_nor_read(box: Machine) -> None:
    """Process ids outside the namespace mean nothing inside."""
    told = installed.script(box, "kill -9 -1; kill -9 1; echo alive", timeout_seconds=20)
    assert told["state"] == "done", told
    told = installed.script(box, "cat /proc/1/environ; ls /proc/1/fd/ && exit 0; exit 1")
    assert told["state"] == "done", told


def test_an_action_that_forks_away_leaves_nothing_behind(box: Machine) -> None:
    installed.script(box, "setsid sh -c 'sleep 300 & sleep 300' >/dev/null 2>&1 & sleep 0.2")
    box.wait_for("! pgrep -u selfware-tool sleep", 10)


def test_what_an_action_printed_is_in_the_journal_under_its_unit_and_its_effect(box: Machine) -> None:
    told = installed.script(box, "echo hello from inside; printf '\\033[31mred\\n'")
    box.run("journalctl", "--sync")
    lines = box.run("journalctl", "-o", "json", f"SELFWARE_EFFECT_ID={told['effect_id']}").stdout.splitlines()
    entries = [json.loads(line) for line in lines]
    assert [entry["MESSAGE"] for entry in entries] == [
        "hello from inside",
        "\\x1b[31mred",
        "run_command: exited with status 0",
    ]
    assert all(entry["_SYSTEMD_UNIT"].startswith("selfware-tool@") for entry in entries)


def test_the_agents_user_reaches_neither_the_operators_socket_nor_the_tools(box: Machine) -> None:
    for path in ("/run/selfware/oversightd/operator.sock", "/run/selfware/tool.sock"):
        code = f"import socket; socket.socket(socket.AF_UNIX).connect('{path}')"
        for user in ("selfware-agent", "selfware-inferenced", "selfware-engine", "selfware-checkpointd"):
            done = box.run("python3", "-c", code, user=user, check=False)
            assert "Permission denied" in done.stderr, (user, path, done.stderr)


def test_operators_reach_everything_they_need_and_strangers_nothing(box: Machine) -> None:
    box.shell("id stranger 2>/dev/null || useradd -m stranger")
    assert "oversightd" in box.run("selfwarectl", "status", user="olga").stdout
    assert box.run("selfwarectl", "tasks", "ls", user="olga").returncode == 0
    assert box.run("selfwarectl", "status", user="stranger", check=False).returncode == 3


LOOK = f"cd {WORKSPACE}; find . -path ./.git -prune -o -printf '%P %M %u %g %l\\n' | sort; cat secret d/e/f"
TREE = "/var/lib/selfware/oversightd/test.tree"


def tree(box: Machine, what: str) -> dict[str, Any]:
    """Save the workspace, or put it back, as oversightd's user; see inside/tree.py."""
    box.run("chmod", "a+r", "/opt/tree.py")
    told = box.run("python3", "/opt/tree.py", what, WORKSPACE, TREE, user="selfware-oversightd", timeout=120).stdout
    found = json.loads(told)
    assert isinstance(found, dict)
    assert "error" not in found, found
    return found


def test_a_workspace_is_saved_and_put_back_by_the_tools_user(box: Machine) -> None:
    box.shell(f"rm -rf {WORKSPACE}; mkdir {WORKSPACE}")
    make = "mkdir -p d/e; echo deep > d/e/f; echo mine > secret; chmod 600 secret; ln -s d/e/f link; mkfifo pipe"
    assert installed.script(box, make)["ok"]
    box.run("sh", "-c", f"mkdir {WORKSPACE}/olgas && echo hers > {WORKSPACE}/olgas/file", user="olga")
    assert box.run("cat", f"{WORKSPACE}/secret", user="selfware-oversightd", check=False).returncode != 0
    before = box.shell(LOOK).stdout
    saved = tree(box, "capture")
    assert (saved["unread"]["count"], saved["left_out"]["count"]) == (0, 0), saved
    wreck = "rm -r d link pipe; echo changed > secret; chmod 640 secret; mkdir -p new/er && touch new/er/x; rm -r olgas"
    assert installed.script(box, wreck)["ok"]
    planned = tree(box, "plan")
    assert planned["deleted"] == {"count": 1, "paths": ["new"]}
    done = tree(box, "restore")
    assert done["created"]["count"] == planned["created"]["count"]
    # What was olga's is the tool's now; she can still change it, and so can the tool what she makes in it.
    assert " olga " in before
    assert box.shell(LOOK).stdout == before.replace(" olga ", " selfware-tool ")
    box.run("sh", "-c", f"echo more >> {WORKSPACE}/olgas/file && touch {WORKSPACE}/d/e/by_olga", user="olga")
    told = installed.script(box, "echo again >> d/e/by_olga && cat olgas/file")
    assert told["output"] == "hers\nmore\n", told
    assert tree(box, "restore")["deleted"]["paths"] == ["d/e/by_olga"]


def test_a_fork_into_a_directory_of_an_operators_is_filled(box: Machine) -> None:
    box.shell(f"rm -rf {WORKSPACE}; mkdir {WORKSPACE}")
    assert installed.script(box, "mkdir -p d && echo x > d/f")["ok"]
    tree(box, "capture")
    box.shell(f"rm -rf {WORKSPACE}")
    box.run("mkdir", WORKSPACE, user="olga")
    assert tree(box, "restore")["created"]["count"] >= 2
    box.run("sh", "-c", f"echo y >> {WORKSPACE}/d/f", user="olga")
    assert installed.script(box, "cat d/f")["output"] == "x\ny\n"


@pytest.mark.parametrize("name", ["api.sock", "bulk.sock"])
def test_only_who_has_business_with_checkpointd_reaches_it(box: Machine, name: str) -> None:
    path = f"/run/selfware/checkpointd/{name}"
    box.wait_for(f"test -S {path}", 30)
    code = f"import socket; socket.socket(socket.AF_UNIX).connect('{path}')"
    for user in ("selfware-agent", "selfware-oversightd", "olga"):
        assert box.run("python3", "-c", code, user=user, check=False).returncode == 0, user
    for user in ("selfware-inferenced", "selfware-resourced", "selfware-engine", "selfware-tool"):
        assert "Permission denied" in box.run("python3", "-c", code, user=user, check=False).stderr, user
