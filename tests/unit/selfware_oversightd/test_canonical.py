"""The canonical form and its digest: equal meaning, equal bytes; one byte more, another digest."""

from __future__ import annotations

import json

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfware_common.rpc import oversight_pb2 as pb
from selfware_oversightd.canonical import MAX_ACTION_BYTES, read_proposal
from selfware_oversightd.errors import ActionTooLargeError, InvalidIdError, NoActionError


def request(action: pb.Action, workspace: str = "/w", task_id: str = "t", effect_id: str = "e") -> pb.PerformRequest:
    return pb.PerformRequest(effect_id=effect_id, action=action, workspace=workspace, task_id=task_id)


def digest(action: pb.Action, workspace: str = "/w", task_id: str = "t") -> str:
    return read_proposal(request(action, workspace, task_id)).digest


def test_the_digest_of_a_known_action_is_pinned() -> None:
    action = pb.Action(run_command=pb.RunCommand(argv=["make", "test"]))
    assert read_proposal(request(action)).canonical == '{"run_command":{"argv":["make","test"]}}'
    assert digest(action) == GOLDEN


GOLDEN = "240c0a24b1dad740694d0d10ec7baa756a5c84b61d91c2abe8b20a3494464b87"


@given(st.text(max_size=40), st.integers(min_value=0), st.characters())
def test_every_change_of_one_character_changes_the_digest(text: str, place: int, new: str) -> None:
    text = text.encode("utf-8", "ignore").decode()
    new = new.encode("utf-8", "ignore").decode()
    place %= len(text) + 1
    changed = text[:place] + new + text[place:]
    one = digest(pb.Action(run_command=pb.RunCommand(argv=["sh", text])))
    other = digest(pb.Action(run_command=pb.RunCommand(argv=["sh", changed])))
    assert (one == other) == (text == changed)


def test_every_changed_byte_of_the_canonical_text_is_another_digest() -> None:
    base = pb.Action(write_file=pb.WriteFile(path="a/b.py", content="print('hi')\n", executable=True))
    seen = {digest(base), digest(base, workspace="/w2"), digest(base, task_id="t2")}
    content = base.write_file.content
    for index in range(len(content)):
        changed = pb.Action()
        changed.CopyFrom(base)
        changed.write_file.content = content[:index] + chr(ord(content[index]) ^ 1) + content[index + 1 :]
        seen.add(digest(changed))
    assert len(seen) == 3 + len(content)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (pb.RunCommand(argv=["a b"]), pb.RunCommand(argv=["a", "b"])),
        (pb.RunCommand(argv=["a", ""]), pb.RunCommand(argv=["a"])),
        (pb.RunCommand(argv=["a"]), pb.RunCommand(argv=["a"], cwd=".")),
        (pb.RunCommand(argv=["a"]), pb.RunCommand(argv=["a"], timeout_seconds=1)),
        (pb.RunCommand(argv=["a"], env={"A": "b"}), pb.RunCommand(argv=["a"], env={"A": "c"})),
        (pb.RunCommand(argv=["sh", "-c", "a"]), pb.RunCommand(script="a")),
        (pb.RunCommand(argv=["é"]), pb.RunCommand(argv=["e\u0301"])),
        (pb.RunCommand(argv=["a\n"]), pb.RunCommand(argv=["a\\n"])),
    ],
)
def test_two_commands_that_look_alike_have_two_digests(one: pb.RunCommand, other: pb.RunCommand) -> None:
    assert digest(pb.Action(run_command=one)) != digest(pb.Action(run_command=other))


def test_kinds_with_the_same_fields_have_different_digests() -> None:
    read, written = pb.Action(read_file=pb.ReadFile(path="a")), pb.Action(write_file=pb.WriteFile(path="a"))
    assert digest(read) != digest(written)


def test_the_order_of_the_environment_does_not_matter() -> None:
    one = pb.RunCommand(argv=["a"], env={"A": "1", "B": "2"})
    other = pb.RunCommand(argv=["a"], env={"B": "2", "A": "1"})
    assert digest(pb.Action(run_command=one)) == digest(pb.Action(run_command=other))


def test_summary_and_canonical_text_cannot_drive_a_terminal() -> None:
    nasty = "a\x1b[2J\u202e\r\nb"
    proposal = read_proposal(request(pb.Action(run_command=pb.RunCommand(argv=["echo", nasty]))))
    assert proposal.summary.isprintable()
    assert proposal.canonical.isascii()
    assert proposal.canonical.isprintable()
    assert json.loads(proposal.canonical)["run_command"]["argv"][1] == nasty


def test_a_long_summary_says_how_much_is_missing() -> None:
    proposal = read_proposal(request(pb.Action(run_command=pb.RunCommand(argv=["echo", "x" * 1000]))))
    assert len(proposal.summary) < 200
    assert proposal.summary.endswith("more characters)")


def test_a_proposal_without_an_action_is_an_invalid_argument() -> None:
    with pytest.raises(NoActionError) as caught:
        read_proposal(request(pb.Action()))
    assert caught.value.status is grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize("bad", ["", "../x", ".x", "-x", "a/b", "a b", "x" * 129, "a\n", "é"])
def test_ids_that_are_no_ids_are_refused(bad: str) -> None:
    action = pb.Action(finish=pb.Finish())
    with pytest.raises(InvalidIdError):
        read_proposal(request(action, effect_id=bad))
    with pytest.raises(InvalidIdError):
        read_proposal(request(action, task_id=bad))


def test_an_action_too_large_to_keep_is_refused() -> None:
    action = pb.Action(write_file=pb.WriteFile(path="a", content="x" * MAX_ACTION_BYTES))
    with pytest.raises(ActionTooLargeError):
        read_proposal(request(action))
