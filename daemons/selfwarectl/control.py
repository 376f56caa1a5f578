"""`pause` and `resume`: hold everything, go on."""

from __future__ import annotations

import click

from selfwarectl import output, reach


@click.command()
@click.option("-r", "--reason", default="", help="Shown to everybody who looks.")
@output.json_option
def pause(reason: str) -> None:
    """Let nothing new begin. What runs now ends first; nothing is lost.

    \b
    Examples:
      selfwarectl pause
      selfwarectl pause -r "machine needed until noon"
    """
    answer = reach.operator("POST", "/pause", {"reason": reason})
    if output.wants_json():
        output.emit(answer)
    else:
        output.say("paused; 'selfwarectl resume' goes on")


@click.command()
@output.json_option
def resume() -> None:
    """Go on after a pause.

    \b
    Examples:
      selfwarectl resume
    """
    answer = reach.operator("POST", "/resume", {})
    if output.wants_json():
        output.emit(answer)
    else:
        output.say("going on")
