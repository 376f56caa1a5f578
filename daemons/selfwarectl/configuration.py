"""`config`: the settings that are in force here, and whether the file that sets them is right."""

from __future__ import annotations

import dataclasses
import json
import stat
from pathlib import Path
from typing import Any

import click

from selfware_common import paths, private_places, settings
from selfware_common.config import sources
from selfware_common.errors import ConfigError
from selfwarectl import output


@click.group()
def config() -> None:
    """See and check the settings."""


@config.command("show")
@output.json_option
def show() -> None:
    """Print every setting in force, as TOML.

    \b
    Examples:
      selfwarectl config show
      selfwarectl config show --json | jq .llm.model
    """
    path = paths.from_environment().config_file
    values = dataclasses.asdict(settings.load(path))
    if output.wants_json():
        output.emit(values)
        return
    output.say(f"# {path}" + ("" if path.exists() else " does not exist: these are the defaults"))
    _print_table("", values)


@config.command("check")
@click.argument("file", required=False, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@output.json_option
def check(file: Path | None) -> None:
    """Check selfware.toml (or FILE) and its drop-ins; exit status 1 with one sentence when something is wrong.

    \b
    Examples:
      selfwarectl config check
      selfwarectl config check ./selfware.toml
    """
    where = paths.from_environment()
    path = file or where.config_file
    found = settings.load(path)
    if where == paths.system():
        private_places.refuse(found, path)
        _refuse_if_closed(path)
    if output.wants_json():
        output.emit({"path": str(path), "exists": path.exists(), "ok": True})
    else:
        output.say(f"{path} is right" if path.exists() else f"{path} does not exist: the defaults are in force")


def _refuse_if_closed(path: Path) -> None:
    """Whoever checks may be root, who can read everything; the daemons are not."""
    for source in sources(path):
        if not source.exists():
            continue
        status = source.stat()
        if not (status.st_mode & stat.S_IROTH or (status.st_gid and status.st_mode & stat.S_IRGRP)):
            raise ConfigError(path=source, problem=f"the daemons may not read it: run 'sudo chmod 644 {source}'")


def _print_table(name: str, table: dict[str, Any]) -> None:
    plain = {key: value for key, value in table.items() if not isinstance(value, dict)}
    if name and (plain or not table):
        output.say("")
        output.say(f"[{name}]")
    for key, value in plain.items():
        output.say(f"{key} = {_toml(value)}")
    for key, value in table.items():
        if isinstance(value, dict):
            _print_table(f"{name}.{key}" if name else key, value)


def _toml(value: Any) -> str:
    """JSON's notation of these types is TOML's too."""
    return json.dumps(list(value) if isinstance(value, tuple) else value)
