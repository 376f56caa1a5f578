"""Runs inside a booted image, as root: a job of many small tasks for an installed Selfware, and what became of it.

    job.py engine              put the scripted engine in the place of the model, and its script
    job.py submit FIRST COUNT  hand over tasks FIRST.. (idempotent)
    job.py wait COUNT SECONDS  until so many tasks have ended
    job.py watch COUNT         one line "EVENTS SECONDS" for each step, as it is recorded, until so many tasks ended
    job.py verdict             what the books say against what happened in the workspace, as a line of JSON

Every task writes a file, is judged by a check, and commits. The check appends a line to a log each time it runs, so an
action that ran twice, or is said to have run and did not, shows.
"""

import json
import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

sys.path[:0] = ["/usr/lib/selfware/app", "/usr/lib/selfware/vendor"]

import grpc

from selfware_common import clients, events, paths
from selfware_common.rpc import agent_pb2, agent_pb2_grpc, checkpoint_pb2, checkpoint_pb2_grpc
from selfwarectl import reach

WORKSPACE = Path("/var/lib/selfware/workspaces/job")
LOG = WORKSPACE / "runs.log"
ENDED = {agent_pb2.TASK_STATE_SOLVED, agent_pb2.TASK_STATE_FAILED, agent_pb2.TASK_STATE_CANCELLED}
CHECK = """import pathlib, sys
name, wanted = sys.argv[1:]
with open("runs.log", "a") as log:
    log.write(f"{name}\\n")
sys.exit(0 if pathlib.Path(name).read_text().strip() == wanted else f"{name} is wrong")
"""
DROP_IN = """[Service]
UMask=0007
ExecStart=
ExecStart=/usr/bin/python3 -I -c 'import sys; sys.path[:0] = ["/usr/lib/selfware/app", "/usr/lib/selfware/vendor"]; \
from selfware_common.testing.scripted_engine import main; sys.exit(main())' \
--socket /run/selfware/engine/scripted.sock --script /etc/selfware/script.json --state /var/lib/selfware/engine/state
"""
MOST_TASKS = 2000


def engine() -> None:
    """Every third task needs a second try."""
    rules = []
    for number in range(MOST_TASKS):
        name = f"part{number}.txt"
        right = {"tool": "write_file", "path": name, "content": f"value {number}\n"}
        wrong = {"tool": "write_file", "path": name, "content": "wrong\n"}
        if number % 3 == 2:
            rules.append({"when": {"contains": [f"part {number};"], "seed": 1}, "reply": wrong})
        rules.append({"when": {"contains": [f"part {number};"]}, "reply": right})
    delay = float(os.environ.get("TOKEN_DELAY", "0.005"))
    script = [{**rule, "tokens_delay_seconds": delay} for rule in rules]
    write(Path("/etc/selfware/script.json"), json.dumps(script))
    write(Path("/etc/selfware/selfware.toml.d/scripted.toml"), '[llm]\nmodel = "scripted"\n')
    write(Path("/etc/systemd/system/selfware-engine@scripted.service.d/scripted.conf"), DROP_IN)
    target = "[Unit]\nWants=selfware-engine@scripted.service\n"
    write(Path("/etc/systemd/system/selfware.target.d/scripted.conf"), target)
    if Path("/run/systemd/system").exists():
        subprocess.run(["systemctl", "daemon-reload"], check=True)


def submit(first: int, count: int) -> None:
    """Registers with oversightd, then with the agent; waits while either restarts."""
    make_workspace(first + count)
    for number in range(first, first + count):
        name = f"part{number}.txt"
        check = ["python3", "check.py", name, f"value {number}"]
        goal_id = f"part-{number}"
        goal = {"goal_id": goal_id, "workspace": str(WORKSPACE), "check": check, "commit": True}
        patiently(lambda goal=goal: reach.operator("POST", "/goals", goal))
        request = agent_pb2.SubmitRequest(
            goal_id=goal_id,
            goal=f"part {number}; make {name} hold value {number}",
            workspace=str(WORKSPACE),
            check=check,
            target_paths=[name],
            commit=True,
            max_attempts=5,
        )
        patiently(lambda request=request: call(lambda stub: stub.Submit(request, timeout=60)))


def make_workspace(count: int) -> None:
    """A git repository with a part per task."""
    if not (WORKSPACE / ".git").exists():
        WORKSPACE.mkdir(exist_ok=True)
        write(WORKSPACE / "check.py", CHECK)
        write(WORKSPACE / ".gitignore", "runs.log\n__pycache__/\n")
        write(LOG, "")
        LOG.chmod(0o666)
        for number in range(count):
            write(WORKSPACE / f"part{number}.txt", "original\n")
        for argv in (["init", "-q", "-b", "main"], ["add", "-A"], ["commit", "-q", "-m", "begin"]):
            identity = ["-c", "user.name=Proof", "-c", "user.email=proof@localhost"]
            subprocess.run(["git", *identity, *argv], cwd=WORKSPACE, check=True)
        os.sync()


def wait(count: int, seconds: float) -> None:
    """Exit status 1 with the state of affairs when time runs out."""
    end = time.monotonic() + seconds
    while True:
        tasks = patiently(lambda: call(lambda stub: stub.ListTasks(agent_pb2.ListTasksRequest(), timeout=30))).tasks
        ended = [task for task in tasks if task.state in ENDED]
        if len(ended) >= count:
            print(json.dumps({"ended": len(ended)}))
            return
        if time.monotonic() > end:
            sys.exit(f"{len(ended)} of {count} tasks ended: {[task.sentence for task in tasks][:5]}")
        time.sleep(0.2)


def watch(_count: int) -> None:
    """The journal's length each time it grew, with the clock beside it."""
    seen = 0
    while True:
        try:
            with clients.sync_channel(paths.system().socket_of("agent")) as channel:
                for progress in agent_pb2_grpc.AgentStub(channel).Watch(agent_pb2.WatchRequest()):
                    if progress.sequence > seen:
                        seen = progress.sequence
                        print(seen, time.monotonic(), flush=True)
        except grpc.RpcError:
            time.sleep(0.005)


def verdict() -> None:
    """Every run of a check that was acknowledged left exactly one line; a run of unknown outcome at most one. The job
    goes on meanwhile: no line of before is without its proposal, and nothing acknowledged is without its line after."""
    before = lines_of_log()
    journal = patiently(read_journal)
    after = lines_of_log()
    gaps = sum(event.sequence != number for number, event in enumerate(journal, journal[0].sequence if journal else 0))
    proposed, done, unknown = {}, Counter(), Counter()
    for event in journal:
        payload = events.decode(event.payload)
        if event.kind == "ActionProposed" and payload["purpose"] == "check":
            proposed[payload["effect_id"]] = payload["action"]["argv"][2]
        if event.kind == "ActionFinished" and payload["effect_id"] in proposed:
            counts = done if payload["state"] == "done" else unknown if payload["state"] == "unknown" else None
            if counts is not None:
                counts[proposed[payload["effect_id"]]] += 1
    finished = Counter(events.decode(event.payload)["effect_id"] for event in journal if event.kind == "ActionFinished")
    lost = sum(max(0, done[name] - after[name]) for name in done)
    open_checks = Counter(name for effect, name in proposed.items() if effect not in finished)
    surplus = {name: before[name] - done[name] - unknown[name] - open_checks[name] for name in before}
    told = {
        "events": len(journal),
        "gaps": gaps,
        "checks_done": sum(done.values()),
        "checks_unknown": sum(unknown.values()),
        "unknown": sum(
            event.kind == "ActionFinished" and events.decode(event.payload)["state"] == "unknown" for event in journal
        ),
        "lost": lost,
        "duplicated": sum(max(0, more) for more in surplus.values()) + sum(n - 1 for n in finished.values()),
    }
    print(json.dumps(told))


def lines_of_log() -> Counter[str]:
    """How often each check ran."""
    return Counter(LOG.read_text().split()) if LOG.exists() else Counter()


def read_journal() -> list[checkpoint_pb2.Event]:
    """Every event of the session."""
    with clients.sync_channel(paths.system().socket_of("checkpointd")) as channel:
        request = checkpoint_pb2.ReadEventsRequest(session_id="main")
        return list(checkpoint_pb2_grpc.CheckpointStub(channel).ReadEvents(request, timeout=120))


def call(use: Any) -> Any:
    """One call of the agent."""
    with clients.sync_channel(paths.system().socket_of("agent")) as channel:
        return use(agent_pb2_grpc.AgentStub(channel))


def patiently(use: Any) -> Any:
    """Again until the daemon behind it is back."""
    for _ in range(1200):
        try:
            return use()
        except (grpc.RpcError, reach.UnreachableError, OSError) as error:
            last = error
            time.sleep(0.1)
    raise last


def write(path: Path, text: str) -> None:
    """With its directories."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    if path.parent == WORKSPACE:
        path.chmod(0o664)


if __name__ == "__main__":
    verb, *rest = sys.argv[1:]
    {"engine": engine, "submit": submit, "wait": wait, "watch": watch, "verdict": verdict}[verb](
        *[float(one) if verb == "wait" and place else int(one) for place, one in enumerate(rest)]
    )
