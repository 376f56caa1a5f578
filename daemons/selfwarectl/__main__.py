"""The command line: which commands exist, and how every failure becomes one sentence and an exit status.

A command's module is imported when the command is used, so that help and completion stay quick. Exit statuses: 0 ok,
1 the thing failed, 2 usage, 3 cannot reach the daemon, 4 refused by policy or state, 130 interrupted.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

import click

from selfware_common import __version__

# Command: module that defines it (as a click command of that name), and its line in --help.
COMMANDS: dict[str, tuple[str, str]] = {
    "status": ("status", "What every daemon is doing right now."),
    "run": ("run", "Give the agent a goal."),
    "tasks": ("tasks", "Goals given so far: ls, show, cancel, retry, logs."),
    "approvals": ("approvals", "Questions for a person: ls, show, history."),
    "approve": ("approvals", "Let a waiting action run, once."),
    "reject": ("approvals", "Refuse a waiting action."),
    "start": ("units", "Start Selfware, also after it gave up; installed machines only."),
    "stop": ("units", "Stop Selfware; what it remembers stays."),
    "pause": ("control", "Let nothing new begin."),
    "resume": ("control", "Go on after a pause."),
    "checkpoints": ("checkpoints", "Saved states: ls, show, diff, now, verify, tidy."),
    "restore": ("restoring", "Go back to a checkpoint, with the files."),
    "fork": ("forking", "Begin a second session from a checkpoint."),
    "recover": ("recovering", "Begin again from what is remembered, of this session or another."),
    "models": ("models", "Models this machine can run: ls, fetch, verify."),
    "queue": ("machine", "Requests waiting for the model or running."),
    "resources": ("machine", "Memory, disk, GPU and load, and their pressure."),
    "config": ("configuration", "The settings: show, check."),
    "doctor": ("doctor", "Look for what would keep Selfware from working."),
    "demo": ("demo.command", "Run the demo job to its end and print an honest table."),
    "up": ("up", "Run the whole stack in the foreground until Ctrl-C."),
}


class Commands(click.Group):
    """Knows every command by name and imports only the one that is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"selfwarectl.{COMMANDS[cmd_name][0]}")
        found = getattr(module, cmd_name)
        assert isinstance(found, click.Command)
        return found

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click does it, with the nearest name for a mistyped one."""
        if args and not args[0].startswith("-") and args[0] not in COMMANDS:
            import difflib

            near = difflib.get_close_matches(args[0], COMMANDS, n=1, cutoff=0.5)
            guess = f" Did you mean '{near[0]}'?" if near else ""
            ctx.fail(f"There is no command {args[0]!r}.{guess}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_module, line) in COMMANDS.items()])


@click.command(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="selfwarectl")
def cli() -> None:
    """See and steer Selfware: a local coding agent that works unattended.

    Every command takes --json and --help. IDs may be shortened to a unique beginning.

    \b
    Examples:
      selfwarectl status
      selfwarectl run "Write slugify(text) in slug.py" --workspace ~/repo \\
          --check "python -m pytest -q test_slug.py" --target slug.py --wait
      selfwarectl approvals ls
    """


def main() -> int:
    """The program; no traceback leaves it."""
    sys.stdout = sys.stdout or sys.stderr  # None when whoever started us closed it
    try:
        _require_text(sys.argv[1:])
        result = cli.main(standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except click.Abort:
        return 130
    except _known_errors() as error:
        from selfwarectl import output

        return output.fail(error)
    return result if isinstance(result, int) else 0


def _require_text(words: Sequence[str]) -> None:
    """What is not UTF-8 can be told to no daemon."""
    for word in words:
        try:
            word.encode()
        except UnicodeEncodeError:
            raise click.UsageError(f"{word!r} is not valid UTF-8.") from None


def _known_errors() -> tuple[type[Exception], ...]:
    """Evaluated only when something failed: importing these errors costs as much as all the rest of --help."""
    from selfware_common.errors import SelfwareError

    return SelfwareError, OSError


if __name__ == "__main__":
    sys.exit(main())
