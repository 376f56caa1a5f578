"""Proof: a workspace can be taken back to any step, byte for byte, and the conversation with it.

Real shell commands change a workspace with a git repository in it: edits, deletions, links, modes, renames, files
that become directories and back, commits, packed objects, binary files, names that are not UTF-8. After each step the
tree, captured incrementally, and the conversation go into a checkpoint store. The store is opened anew, and the
workspace is taken to random steps in random order; every other time a restore is first killed half-way. Each time
the tree, times included, and the conversation must be what they were. The trees are compared by their own reading,
which shares no code with what is proved; git itself must find the repository whole. Then the same with the whole
product (rewind_agent).
"""

from __future__ import annotations

import asyncio
import io
import json
import os
import random
import shutil
import signal
import stat
import struct
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from blake3 import blake3

from selfware_checkpointd.manifest import Level
from selfware_checkpointd.store import Store
from selfware_common.trees import Rebuilding, TreeIndex, restore_tree, write_tree, write_tree_again
from tests.prove.common import Verdict, arguments, report, say

ROOT = Path(__file__).resolve().parent.parent.parent
SESSION = "rewind"
EDITS_PER_STEP = 4
STEPS_PER_JUMP = 10
FULL_CAPTURE_EVERY = 20

EDITS = (
    "echo 'a line of {n}' >> {file}",
    "sed -i 's/the/THE {n}/' {file}",
    "seq {n} | gzip -n > {file}.gz",
    "printf '\\000\\377\\376{n}' > {file}",
    "rm -f {file}",
    "rm -rf {dir}",
    "mkdir -p {dir}/empty-{n}",
    "cp -a docs {dir}",
    "mv -f {file} {other}",
    "mv {dir} {dir2}",
    "ln -sfn {file} {other}.link",
    "ln -sfn /nowhere/{n} {dir}/dangling",
    "ln -f {file} {other}",
    "chmod {mode} {file}",
    "chmod {dirmode} {dir}",
    "rm -rf {file}; mkdir -p {file}; echo {n} > {file}/inner",
    "rm -rf {dir}; echo {n} > {dir}",
    "rm -rf {file}; ln -s {dir} {file}",
    "mkfifo {file}.pipe",
    "touch -d @{n} {file}",
    "chmod {mode} {file}.pipe",
    "touch -h -d @{n}.5 {other}.link",
    "truncate -s {n} {file}",
    "echo {n} > \"$(printf 'caf\\351-\\377{k}')\"",
    "mkdir -p \"$(printf 'r\\351p{k}')\"; echo {n} > \"$(printf 'r\\351p{k}')\"/x",
    "rm -rf \"$(printf 'caf\\351-\\377{k}')\"",
    "git add -A; git commit -qm 'step {n}'",
    "git add -A; git commit -qm 'step {n}'",
    "git checkout -q -B branch-{k}",
    "git reset -q --hard HEAD~1",
    "git stash -q; git checkout -q -f HEAD .",
    "git tag -f tag-{k}",
    "git gc -q",
    "git clean -qfdx {dir}",
)


@dataclass(frozen=True)
class Moment:
    """What a step left: the digest of the tree and of the conversation, and the checkpoint."""

    tree: bytes
    conversation: bytes
    checkpoint_id: str


@dataclass
class Figures:
    """What the steps cost, all of them together; bytes and seconds."""

    proof: str = "rewind"
    steps: int = 0
    edits: int = 0
    entries: int = 0
    captured_bytes: int = 0
    reused_bytes: int = 0
    stored_bytes: int = 0
    first_stored_bytes: int = 0
    capture_seconds: float = 0.0
    save_seconds: float = 0.0
    jumps: int = 0
    restored_bytes: int = 0
    restore_seconds: float = 0.0


def prove(rounds: int, seed: int) -> Verdict:
    """`rounds` counts steps; one jump for every ten of them. Faults are kills that left a tree between two steps."""
    base = Path(tempfile.mkdtemp(prefix="selfware-rewind-"))
    try:
        return _prove(base, rounds, random.Random(seed), seed)
    finally:
        subprocess.run(["chmod", "-R", "u+rwX", base], check=False)
        shutil.rmtree(base)


def _prove(base: Path, rounds: int, chance: random.Random, seed: int) -> Verdict:
    workspace, figures = base / "workspace", Figures()
    make_workspace(workspace)
    moments = _record(workspace, base / "store", rounds, chance, figures)
    say(f"recorded {figures.steps} steps of {figures.edits} edits that did something")
    store = Store(base / "store")
    wrong = killed = 0
    jumps = max(5, rounds // STEPS_PER_JUMP)
    for jump in range(jumps):
        step = chance.randrange(len(moments))
        conversation, tree = load(store, moments[step])
        if jump % 2:
            before = look(workspace)
            kill_half_way(base, tree, workspace, chance.uniform(0.0, 0.03))
            killed += look(workspace) not in (before, moments[step].tree)
        begun = time.perf_counter()
        done = restore_tree(io.BytesIO(tree), workspace, set_id=True)
        figures.restore_seconds += time.perf_counter() - begun
        figures.restored_bytes += len(tree)
        figures.jumps += 1
        problems = differences(workspace, conversation, moments[step])
        wrong += bool(problems)
        say(f"step {step}: {done.created + done.changed + done.deleted} changes, {'; '.join(problems) or 'as it was'}")
    print(json.dumps({key: round(value, 3) if isinstance(value, float) else value
                      for key, value in asdict(figures).items()}), flush=True)  # fmt: skip
    return Verdict("rewind", seed, rounds, killed, wrong, 0, 0, ok=not wrong)


def _record(workspace: Path, directory: Path, steps: int, chance: random.Random, figures: Figures) -> list[Moment]:
    store = Store(directory)
    messages: list[dict[str, str]] = []
    moments: list[Moment] = []
    stream, known = b"", TreeIndex()
    for step in range(1, steps + 1):
        run(workspace, "mkdir -p work")
        for command in edits(chance):
            figures.edits += run(workspace, command)
            messages.append({"role": "assistant", "content": command})
        conversation = json.dumps({"step": step, "messages": messages}).encode()
        begun = time.perf_counter()
        output = Rebuilding(stream)
        summary = write_tree_again(workspace, output, known)
        stream, known = bytes(output.stream), summary.index
        captured = time.perf_counter()
        data = struct.pack("<Q", len(conversation)) + conversation + stream
        info = store.save(SESSION, Level.SYSTEM, step, data, f"step {step}", time.time_ns())
        figures.save_seconds += time.perf_counter() - captured
        figures.capture_seconds += captured - begun
        figures.captured_bytes += len(stream)
        figures.reused_bytes += summary.reused_bytes
        figures.stored_bytes += info.stored_bytes
        figures.first_stored_bytes = figures.first_stored_bytes or info.stored_bytes
        figures.entries += summary.directories + summary.files + summary.links + summary.pipes
        figures.steps += 1
        if summary.unread.count or summary.changing.count:
            raise AssertionError(f"step {step}: {summary.unread} {summary.changing}")
        if step % FULL_CAPTURE_EVERY == 0:
            full = bytearray()
            write_tree(workspace, full.extend)
            assert full == stream, f"step {step}: the incremental capture differs from a full one"
        moments.append(Moment(look(workspace), blake3(conversation).digest(), info.checkpoint_id))
    return moments


def make_workspace(path: Path) -> None:
    """A git repository with some real text in it."""
    path.mkdir()
    for name in ("docs", "selfware_common", "protos"):
        shutil.copytree(ROOT / name, path / name, ignore=shutil.ignore_patterns("__pycache__"))
    assert run(path, "git init -q -b main && git add -A && git commit -qm begin")


def edits(chance: random.Random) -> list[str]:
    """The commands of one step."""
    files = [
        "docs/formats.md",
        "docs/figures.md",
        "selfware_common/log.py",
        "protos/agent.proto",
        "new.txt",
        "docs/a b",
    ]
    files += [f"work/f{n}" for n in range(8)]
    directories = ["docs", "docs/decisions", "selfware_common/rpc", "work", "work/d0", "work/d1", "protos"]
    commands = []
    for _ in range(chance.randint(1, EDITS_PER_STEP)):
        file, other = (f"'{name}'" for name in chance.sample(files, 2))
        directory, directory2 = chance.sample(directories, 2)
        commands.append(
            chance.choice(EDITS).format(
                n=chance.randrange(1, 20_000),
                k=chance.randrange(3),
                file=file,
                other=other,
                dir=directory,
                dir2=directory2,
                mode=chance.choice(["600", "644", "755", "444", "4755"]),
                dirmode=chance.choice(["700", "755", "2775", "1777"]),
            )
        )
    return commands


def run(workspace: Path, command: str) -> bool:
    """Whether it did what it says: many find their file gone."""
    environment = {**os.environ, "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}
    for who in ("AUTHOR", "COMMITTER"):
        environment |= {f"GIT_{who}_NAME": "Proof", f"GIT_{who}_EMAIL": "proof@localhost"}
        environment[f"GIT_{who}_DATE"] = "1700000000 +0000"
    done = subprocess.run(
        ["sh", "-c", command], cwd=workspace, env=environment, capture_output=True, timeout=60, check=False
    )
    return done.returncode == 0


def load(store: Store, moment: Moment) -> tuple[bytes, bytes]:
    """The conversation and the stream of the tree."""
    data = store.load(moment.checkpoint_id)[1]
    (length,) = struct.unpack_from("<Q", data)
    return data[8 : 8 + length], data[8 + length :]


def kill_half_way(base: Path, tree: bytes, workspace: Path, after_seconds: float) -> None:
    """Begin a restore in a process of its own and kill it."""
    saved = base / "saved"
    saved.write_bytes(tree)
    code = (
        "import pathlib, sys; from selfware_common.trees import restore_tree; print('begun', flush=True); "
        "restore_tree(open(sys.argv[1], 'rb'), pathlib.Path(sys.argv[2]), set_id=True)"
    )
    with subprocess.Popen([sys.executable, "-c", code, saved, workspace], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(after_seconds)
        process.send_signal(signal.SIGKILL)


def differences(workspace: Path, conversation: bytes, moment: Moment) -> list[str]:
    """What is not as it was, in words."""
    problems = []
    if look(workspace) != moment.tree:
        problems.append("the tree differs")
    if blake3(conversation).digest() != moment.conversation:
        problems.append("the conversation differs")
    if not run(workspace, "git fsck --no-dangling"):
        problems.append("git finds the repository damaged")
    if look(workspace) != moment.tree:
        problems.append("looking at it changed it")
    return problems


def look(root: Path, work_only: bool = False) -> bytes:
    """BLAKE3 over path, mode, time, target and content of everything; by no means of the library. work_only: without
    what the clock decides, the times and what git keeps for itself."""
    digest = blake3()
    base = len(os.fsencode(root))
    waiting = [os.fsencode(root)]
    while waiting:
        path = waiting.pop()
        status = os.lstat(path)
        what = b""
        if stat.S_ISDIR(status.st_mode):
            names = sorted(name for name in os.listdir(path) if not (work_only and name == b".git"))
            waiting += [os.path.join(path, name) for name in names]
        elif stat.S_ISLNK(status.st_mode):
            what = os.readlink(path)
        elif stat.S_ISREG(status.st_mode):
            with open(path, "rb") as file:
                what = file.read()
        time_ns = 0 if work_only else status.st_mtime_ns
        digest.update(repr((path[base:], status.st_mode, time_ns, len(what))).encode() + what)
    return digest.digest()


if __name__ == "__main__":
    from tests.prove import rewind_agent  # it needs us

    given = arguments("rewind", rounds=200)
    library = report(prove(given.rounds, given.seed))
    sys.exit(library or report(asyncio.run(rewind_agent.prove(given.rounds, given.seed))))
