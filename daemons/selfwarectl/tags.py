"""`checkpoints tag` and `untag`: names that people give, which keep a checkpoint for ever."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import click

from selfware_common.errors import UsageError
from selfwarectl import output, reach

T = TypeVar("T")


@click.command("tag")
@click.argument("checkpoint_id", metavar="ID")
@click.argument("name")
@output.json_option
def tag(checkpoint_id: str, name: str) -> None:
    """Give a checkpoint a name. It is never deleted as long as it has one, and the name can stand for its ID.

    \b
    Examples:
      selfwarectl checkpoints tag 42 before-refactoring
      selfwarectl restore before-refactoring
    """
    from selfware_common.state import saving
    from selfwarectl.checkpoints import find

    one = find(checkpoint_id)
    _with_tags(lambda path: saving.tag(path, one.checkpoint_id, name))
    if output.wants_json():
        output.emit({"checkpoint_id": one.checkpoint_id, "tag": name})
    else:
        output.say(f"{one.checkpoint_id} is called {name}, and stays")


@click.command("untag")
@click.argument("name")
@output.json_option
def untag(name: str) -> None:
    """Take a name away; the checkpoint may be deleted then, when its time has come.

    \b
    Examples:
      selfwarectl checkpoints untag before-refactoring
    """
    from selfware_common.state import saving

    found = _with_tags(lambda path: saving.untag(path, name))
    if output.wants_json():
        output.emit({"checkpoint_id": found, "tag": name})
    else:
        output.say(f"{found} is no longer called {name}")


def _with_tags(call: Callable[[Path], T]) -> T:
    """On the socket that only operators may open."""
    from selfware_common.state.saving import SavingError
    from selfware_common.state.wire import TAGS_SOCKET

    try:
        return call(reach.present("checkpointd", TAGS_SOCKET))
    except SavingError as error:
        if error.status in ("ALREADY_EXISTS", "FAILED_PRECONDITION"):
            raise reach.RefusedError(reason=str(error)) from None
        if error.status == "INVALID_ARGUMENT":
            raise UsageError(problem=str(error)) from None
        raise reach.FailedError(reason=str(error)) from None
