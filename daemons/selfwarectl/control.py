"""`pause` and `resume`: hold everything, go on."""

from __future__ import annotations

import click

from selfwarectl import output, reach


@click.command()
@click.option("-r", "--reason", default="", help="Shown to everybody who looks.")
@output.json_option
def pause(reason: str) -> None:
    """Let nothing new begin. What runs now ends first; nothing is lost. During a restore: stay paused after it.

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
@click.option("--give-up-restore", is_flag=True, help="Go on with everything as it is, though a restore is half done.")
@output.json_option
def resume(give_up_restore: bool) -> None:
    """Go on after a pause.

    While a restore is under way this is refused: the files may be back already, and what the agent knows not yet.

    \b
    Examples:
      selfwarectl resume
      selfwarectl resume --give-up-restore
    """
    answer = reach.operator("POST", "/resume", {"give_up_restore": give_up_restore})
    if output.wants_json():
        output.emit(answer)
    else:
        output.say("going on")
