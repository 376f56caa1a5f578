"""`doctor`: everything that would keep Selfware from working here, each with what to do about it.

The one place that looks at the tool sandbox from here: whether actions can be confined is a fact about the machine, and
asking oversightd would need it to run first.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click

from selfware_common import paths, settings
from selfware_common.errors import SelfwareError
from selfwarectl import output

NEEDED_FREE_BYTES = 2 * 2**30
OLDEST_PYTHON = (3, 11)


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at. `ok` None: worth knowing, but nothing is wrong."""

    what: str
    ok: bool | None
    sentence: str
    hint: str = ""


@click.command()
@output.json_option
def doctor() -> int:
    """Look for what would keep Selfware from working; exit status 1 when something is wrong.

    \b
    Examples:
      selfwarectl doctor
      selfwarectl doctor --json | jq '.findings[] | select(.ok == false)'
    """
    findings = list(examine())
    wrong = [one for one in findings if one.ok is False]
    if output.wants_json():
        output.emit({"ok": not wrong, "findings": [vars(one) for one in findings]})
        return 1 if wrong else 0
    for one in findings:
        mark = {True: "ok   ", False: "WRONG", None: "note "}[one.ok]
        output.say(f"{mark}  {one.what}: {one.sentence}")
        if one.hint and not one.ok:
            output.say(f"       {one.hint}")
    output.say("nothing is wrong" if not wrong else f"{len(wrong)} of {len(findings)} are wrong")
    return 1 if wrong else 0


def examine() -> Iterator[Finding]:
    """Every check, each independent of the others."""
    where = paths.from_environment()
    yield _python()
    configured, finding = _configuration(where)
    yield finding
    yield from (_chunking(), _sandbox())
    if configured is not None and configured.llm.provider == "embedded":
        yield _engine()
        yield _model(configured)
    if configured is not None and configured.llm.provider == "vllm" and not configured.llm.base_url:
        yield _vllm(configured)
    yield _disk(where)
    yield from _sockets(where)


def _python() -> Finding:
    version = ".".join(str(part) for part in sys.version_info[:3])
    good = sys.version_info[:2] >= OLDEST_PYTHON
    return Finding("Python", good, version, "Selfware needs Python 3.11 or newer.")


def _configuration(where: paths.Paths) -> tuple[settings.Settings | None, Finding]:
    try:
        found = settings.load(where.config_file)
    except SelfwareError as error:
        return None, Finding("configuration", False, error.sentence, error.advice)
    note = str(where.config_file) if where.config_file.exists() else f"defaults ({where.config_file} does not exist)"
    return found, Finding("configuration", True, note)


def _chunking() -> Finding:
    hint = "pip install --force-reinstall --only-binary :all: pyfastcdc"
    there = _imports("pyfastcdc.cy")
    said = "the compiled extension is there" if there else "the compiled extension is missing; saving would be slow"
    return Finding("chunking", there, said, hint)


def _sandbox() -> Finding:
    from selfware_tool.probe import probe

    found = probe()
    return Finding("sandbox", found.available, found.sentence, found.hint)


def _engine() -> Finding:
    there = importlib.util.find_spec("xllamacpp") is not None
    hint = "pip install 'selfware[embedded]', or set llm.provider to an engine of yours."
    return Finding("engine", there, "xllamacpp is there" if there else "xllamacpp is not installed", hint)


def _vllm(configured: settings.Settings) -> Finding:
    command = (*configured.llm.vllm_command, "vllm")[0]
    there = shutil.which(command) is not None
    hint = "Install vLLM in an environment of its own and set llm.vllm_command; docs/engines.md shows how."
    return Finding("engine", there, f"{command} is there" if there else f"there is no command {command}", hint)


def _model(configured: settings.Settings) -> Finding:
    from selfware_common import models

    if configured.llm.model_path:
        there = Path(configured.llm.model_path).exists()
        said = f"{configured.llm.model_path} is {'there' if there else 'missing'}"
        return Finding("model", there, said, "Mend llm.model_path.")
    try:
        model = models.find(configured.llm.model)
    except SelfwareError as error:
        return Finding("model", False, error.sentence, error.advice)
    if not model.path().is_file():
        hint = f"selfwarectl models fetch {model.name}"
        if configured.llm.model and paths.from_environment() == paths.system():
            hint = f"apt install selfware-model-{model.name}, or sudo {hint}"
        return Finding("model", False, f"{model.name} is not on this machine", hint)
    return Finding("model", True, f"{model.name} is at {model.path()}")


def _disk(where: paths.Paths) -> Finding:
    place = where.state
    while not place.exists():
        place = place.parent
    if where != paths.system() and not os.access(place, os.W_OK | os.X_OK):
        return Finding("disk", False, f"{place} cannot be written by this user", "Choose another SELFWARE_HOME.")
    free = shutil.disk_usage(place).free
    return Finding("disk", free >= NEEDED_FREE_BYTES, f"{output.size(free)} free in {place}", "Free some space there.")


def _sockets(where: paths.Paths) -> Iterator[Finding]:
    """A stack that is down altogether is a choice; one that is half up is a fault."""
    from selfwarectl import status

    try:
        where.socket_of("checkpointd")
    except SelfwareError as error:
        yield Finding("sockets", False, error.sentence, error.advice)
        return
    states = [status.ask(name) for name in status.DAEMONS]
    away = [state for state in states if not state.running]
    if len(away) == len(states):
        yield Finding("daemons", None, "the stack is not running", "make up, or systemctl start selfware.target")
        return
    for state in away:
        hint = f"Read log/{state.name}.log in {where.run.parent}, or journalctl -u selfware-{state.name}."
        yield Finding(state.name, False, state.sentence, hint)
    yield Finding("daemons", True, f"{len(states) - len(away)} of {len(states)} answer")


def _imports(name: str) -> bool:
    try:
        importlib.import_module(name)
    except ImportError:
        return False
    return True
