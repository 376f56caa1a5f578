"""Names for checkpoints, by the real command line: they stand for the ID, they keep it, and only people give them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from selfware_common.state import saving, wire
from selfware_tool.probe import probe
from tests.process.test_agent import QUICK, ctl, run
from tests.rig import Job, Rig

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(autouse=True)
def sandbox() -> None:
    found = probe()
    if not found.available:
        pytest.skip(f"{found.sentence} {found.hint}")


def test_a_name_stands_for_the_id_until_it_is_taken_away() -> None:
    async def work(home: Path, workspace: Path) -> None:
        async with Rig(home, QUICK) as rig:
            await rig.submit(Job("quick", "quick; nothing to do", workspace))
            await rig.all_ended(1)
            assert (await ctl(home, "checkpoints", "now"))[0] == 0
            _, out = await ctl(home, "checkpoints", "ls", "--json")
            known = {one["level"]: one["checkpoint_id"] for one in json.loads(out)["checkpoints"]}
            first, second = known["system"], known["session"]
            assert (await ctl(home, "checkpoints", "tag", first, "good"))[0] == 0
            assert (await ctl(home, "checkpoints", "tag", first, "good"))[0] == 0
            code, out = await ctl(home, "checkpoints", "tag", second, "good")
            assert (code, "good" in out) == (4, True)
            assert (await ctl(home, "checkpoints", "tag", first, "ckpt-9"))[0] == 2
            _, out = await ctl(home, "checkpoints", "show", "good", "--json")
            shown = json.loads(out)
            assert (shown["checkpoint_id"], shown["tags"]) == (first, ["good"])
            assert (await ctl(home, "restore", "good", "--dry-run"))[0] == 0
            assert (await ctl(home, "checkpoints", "untag", "good"))[0] == 0
            assert (await ctl(home, "checkpoints", "untag", "good"))[0] == 1
            assert (await ctl(home, "checkpoints", "show", "good"))[0] == 1

    run(work)


def test_the_socket_of_states_takes_no_names_and_that_of_names_no_states() -> None:
    async def work(home: Path, workspace: Path) -> None:
        async with Rig(home, QUICK) as rig:
            await rig.submit(Job("quick", "quick; nothing to do", workspace))
            await rig.all_ended(1)
            assert (await ctl(home, "checkpoints", "now"))[0] == 0
            states = rig.paths.socket_of("checkpointd", wire.BULK_SOCKET)
            names = rig.paths.socket_of("checkpointd", wire.TAGS_SOCKET)
            with pytest.raises(saving.SavingError):
                saving.tag(states, "ckpt-00000001", "mine")
            with pytest.raises(saving.SavingError):
                saving.untag(states, "mine")
            with pytest.raises(saving.SavingError):
                saving.get(names, "ckpt-00000001")
            assert saving.tag(names, "ckpt-00000001", "mine").checkpoint_id == "ckpt-00000001"

    run(work)
