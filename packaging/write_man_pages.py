"""Writes the man pages that can be told from the code: selfwarectl(1) from its click commands, selfware.toml(5) from
the settings schema. selfware(7) is written by hand.

`python packaging/write_man_pages.py [--check]`; tests/static proves the committed pages fresh.
"""

from __future__ import annotations

import dataclasses
import inspect
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click

from selfware_common import __version__, config, settings
from selfwarectl.__main__ import cli

MAN = Path(__file__).resolve().parent / "man"


def selfwarectl_page() -> str:
    """Every command, option and example."""
    root = click.Context(cli, info_name="selfwarectl")
    lines = [
        _head("SELFWARECTL", 1, "User Commands"),
        ".SH NAME\nselfwarectl \\- see and steer Selfware\n",
        ".SH SYNOPSIS\n.B selfwarectl\n.I COMMAND\n.RI [ OPTIONS ]\n",
        ".SH DESCRIPTION\n",
        *_prose(cli.help or ""),
        ".SH COMMANDS\n",
    ]
    for context in _commands(root):
        lines += _command(context)
    lines.append(_TAIL_1)
    return "".join(lines)


def settings_page() -> str:
    """Every key, its default, and the sentence that explains it."""
    lines = [_head("SELFWARE.TOML", 5, "File Formats"), _INTRO_5]
    lines += _table(settings.Settings(), "")
    lines.append(_TAIL_5)
    return "".join(lines)


PAGES: dict[str, Callable[[], str]] = {"selfwarectl.1": selfwarectl_page, "selfware.toml.5": settings_page}


def main() -> int:
    """Write the pages, or with --check say which are stale (exit 1)."""
    stale = [name for name, text in PAGES.items() if _read(MAN / name) != text()]
    if "--check" in sys.argv[1:]:
        for name in stale:
            print(f"stale: packaging/man/{name}; run 'python packaging/write_man_pages.py'")
        return 1 if stale else 0
    for name in stale:
        (MAN / name).write_text(PAGES[name](), encoding="utf-8")
    return 0


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.is_file() else ""


def _commands(context: click.Context) -> Iterator[click.Context]:
    """The context of every command that can be called, in the order of --help."""
    group = context.command
    assert isinstance(group, click.Group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        inner = click.Context(command, info_name=name, parent=context)
        if isinstance(command, click.Group):
            yield from _commands(inner)
        else:
            yield inner


def _command(context: click.Context) -> Iterator[str]:
    usage = " ".join(context.command.collect_usage_pieces(context))
    path = context.command_path.removeprefix("selfwarectl ")
    yield f".SS {_text(f'{path} {usage}')}\n"
    yield from _prose(context.command.help or "")
    for parameter in context.command.get_params(context):
        if isinstance(parameter, click.Option) and (record := parameter.get_help_record(context)):
            names, words = record
            yield f".TP\n.B {_text(names)}\n{_text(words)}\n"


def _prose(text: str) -> Iterator[str]:
    """A help text: paragraphs are filled; what follows click's \\b mark is shown as it is."""
    for number, paragraph in enumerate(inspect.cleandoc(text).split("\n\n")):
        if number:
            yield ".PP\n"
        if paragraph.startswith("\b\n"):
            title, _, rest = paragraph.removeprefix("\b\n").partition("\n")
            body = "\n".join(_text(line) for line in textwrap.dedent(rest).split("\n"))
            yield f"{_text(title)}\n.PP\n.RS 4\n.nf\n{body}\n.fi\n.RE\n"
        else:
            yield _text(" ".join(paragraph.split())) + "\n"


def _table(value: Any, prefix: str) -> Iterator[str]:
    plain = [field for field in dataclasses.fields(value) if not dataclasses.is_dataclass(getattr(value, field.name))]
    if plain:
        yield f".SH [{_text(prefix)}]\n"
    for field in plain:
        default = config.toml_value(getattr(value, field.name))
        yield f".TP\n.B {_text(field.name)}\n{_text(_sentence(field.metadata))} Default: {_text(default)}\n"
    for field in dataclasses.fields(value):
        inner = getattr(value, field.name)
        if dataclasses.is_dataclass(inner):
            yield from _table(inner, f"{prefix}.{field.name}" if prefix else field.name)


def _sentence(metadata: Any) -> str:
    parts = [metadata["why"]]
    if "choices" in metadata:
        parts.append(f"One of: {', '.join(metadata['choices'])}.")
    if "minimum" in metadata:
        parts.append(f"At least {metadata['minimum']}.")
    if "maximum" in metadata:
        parts.append(f"At most {metadata['maximum']}.")
    return " ".join(parts)


def _head(name: str, section: int, part: str) -> str:
    return f'.\\" Written by packaging/write_man_pages.py.\n.TH {name} {section} "" "Selfware {__version__}" "{part}"\n'


def _text(text: str) -> str:
    """Plain text that troff shows as it is: no escape, no request, every hyphen one that can be pasted."""
    text = "".join(_ESCAPES.get(character, character) for character in text)
    return "\\&" + text if text.startswith(".") else text


_ESCAPES = {"\\": "\\e", "-": "\\-", "'": "\\(aq", "~": "\\(ti", "^": "\\(ha", "`": "\\(ga"}

_TAIL_1 = r""".SH EXIT STATUS
.TP
.B 0
All went well.
.TP
.B 1
What was asked for failed.
.TP
.B 2
The command line was wrong.
.TP
.B 3
A daemon cannot be reached.
.TP
.B 4
Refused by the policy or by the state of things.
.TP
.B 130
Interrupted.
.SH ENVIRONMENT
.TP
.B SELFWARE_HOME
Directory of a foreground stack (from a checkout). Without it, and where Selfware is installed,
.B selfwarectl
talks to the daemons that systemd runs.
.TP
.B SELFWARE_MODELS
Directory in which models are looked for and fetched to.
.SH FILES
.TP
.I /etc/selfware/selfware.toml
Settings, see
.BR selfware.toml (5).
.TP
.I /run/selfware/*/api.sock
Sockets of the daemons; members of the group
.B selfware\-operators
may use them.
.SH SEE ALSO
.BR selfware (7),
.BR selfware.toml (5),
.BR systemctl (1),
.BR journalctl (1)
"""

_INTRO_5 = r""".SH NAME
selfware.toml \- settings of Selfware
.SH SYNOPSIS
.I /etc/selfware/selfware.toml
.br
.I /etc/selfware/selfware.toml.d/*.toml
.SH DESCRIPTION
One TOML file holds all settings. Files in
.I selfware.toml.d
are read after it in the order of their names; a later value wins, table by table, so your own values can stay apart
from the packaged file. Every key has the default given here; a key that is left out has it. An unknown key, a wrong
type and a value out of range are errors that name the file, the key and the remedy: nothing is silently ignored.
.PP
Durations are in seconds
.RB ( _seconds ),
sizes in bytes
.RB ( _bytes ).
.B selfwarectl config check
says whether the files are right,
.B selfwarectl config show
what holds.
.B systemctl reload
of a daemon has it read them again; after a change of
.B [supervision]
or of the model,
.B systemctl daemon\-reload
and a restart are needed.
"""

_TAIL_5 = r""".SH EXAMPLE
.nf
# /etc/selfware/selfware.toml.d/50\-ollama.toml
[llm]
provider = "ollama"
base_url = "http://127.0.0.1:11434/v1"
model = "qwen2.5\-coder:32b"
.fi
.SH SEE ALSO
.BR selfware (7),
.BR selfwarectl (1)
"""


if __name__ == "__main__":
    raise SystemExit(main())
