"""`python -m selfware_engine --model NAME|PATH --socket PATH`: prove the model, serve it until SIGTERM.

With `--provider vllm` the model is served by vLLM as selfware.toml describes it, else by llama.cpp in this process.
Holds ``<socket>.lock`` for its whole life, so a second engine cannot steal the socket of a living one, and
a socket that a killed engine left behind can be removed safely.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import faulthandler
import logging
import os
import signal
import sys
import threading
import time
from pathlib import Path
from types import FrameType

from selfware_common import http_health, log, models, paths, settings
from selfware_common.errors import SelfwareError
from selfware_common.notify import Notifier
from selfware_engine import group, instance, lock, progress, vllm
from selfware_engine.llama import Llama, Settings

SOCKET_UMASK = 0o117
WATCHDOG_SHARE = 4  # looks per watchdog interval
PROVIDERS = ("embedded", "vllm")


class ModelFileMissingError(SelfwareError):
    """There is no model file {path}."""

    exit_code = 66  # EX_NOINPUT
    hint = "Give a path to a GGUF file, or a name that 'selfwarectl models ls' shows."


def main() -> int:
    """Ends with 0 at SIGTERM; returns an error's own code after saying its sentence."""
    faulthandler.enable()
    logger = log.setup("selfware-engine")
    given = _arguments(sys.argv[1:])
    try:
        if given.instance is not None:
            given = instance.arguments(given, paths.from_environment())
        if given.provider == "vllm":
            _serve_vllm(given, logger)
        else:
            _serve_embedded(_settings(given), logger)
    except SelfwareError as error:
        logger.error("%s", error)
        return error.exit_code
    return 0


def _arguments(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="selfware-engine", description="Serve one model over OpenAI-compatible HTTP on a Unix socket."
    )
    parser.add_argument("--provider", choices=PROVIDERS, default="embedded", help="llama.cpp in this process, or vLLM")
    parser.add_argument("--model", help="a name (of the catalogue; for vLLM of a hub), or a path")
    parser.add_argument("--name", default="", help="what clients call the model; default: its own name")
    parser.add_argument("--socket", type=Path, help="the Unix socket to serve on")
    parser.add_argument("--instance", help="of the systemd unit: take everything else from selfware.toml")
    parser.add_argument("--slots", type=int, help="requests decoded at the same time")
    parser.add_argument("--context", type=int, help="tokens one request may use")
    parser.add_argument("--threads", type=int, default=0, help="embedded: 0 = all cores but one")
    parser.add_argument("--stall-timeout", type=float, help="seconds without progress after which it counts as dead")
    given = parser.parse_args(arguments)
    if given.instance is None and (given.model is None or given.socket is None):
        parser.error("give --model and --socket, or --instance")
    return given


def _serve_vllm(given: argparse.Namespace, logger: logging.Logger) -> None:
    """Everything about vLLM that is not an argument of ours stands in selfware.toml."""
    llm = _llm_of(given, settings.load(paths.from_environment().config_file).llm)
    vllm.check(llm)
    socket_path = given.socket.absolute()
    server = group.Server("vLLM", vllm.argv(llm, socket_path), vllm.environment(), socket_path, lock.take(socket_path))
    notifier = Notifier()

    slots = f"{llm.max_num_seqs} requests of {llm.max_model_len} tokens at once"
    sentence = f"serving {llm.model} with vLLM: {slots}"

    def on_ready(seconds: float) -> None:
        logger.info("%s, ready after %.1f s", sentence, seconds, extra=log.fields(model=llm.model))
        notifier.ready(sentence)

    pulse = group.Pulse(
        notifier.watchdog_seconds / WATCHDOG_SHARE,
        lambda: notifier.alive(sentence),
        progress.Progress(llm.stall_timeout_seconds, time.monotonic()),
    )
    group.serve(server, on_ready, pulse)
    notifier.stopping("stopped")


def _llm_of(given: argparse.Namespace, llm: settings.Llm) -> settings.Llm:
    """The settings with what the command line says instead."""
    return dataclasses.replace(
        llm,
        model=given.name or vllm.own_name(given.model),
        model_path=given.model,
        max_num_seqs=given.slots or llm.max_num_seqs,
        max_model_len=given.context or llm.max_model_len,
    )


def _serve_embedded(settings: Settings, logger: logging.Logger) -> None:
    """Does not return once it serves: the process ends."""
    lock.take(settings.socket_path)
    began = time.monotonic()
    _engine = _start(settings)
    stop = threading.Event()

    def on_stop(_signal: int, _frame: FrameType | None) -> None:
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, on_stop)
    sentence = (
        f"serving {settings.model_name}: {settings.slots} slots of {settings.context_tokens} tokens, "
        f"{settings.threads_used} threads, ready after {time.monotonic() - began:.1f} s"
    )
    logger.info("%s", sentence, extra=log.fields(model=settings.model_name))
    notifier = Notifier()
    notifier.ready(sentence)
    _while_it_works(settings, notifier, sentence, stop)
    notifier.stopping("stopping")
    settings.socket_path.unlink(missing_ok=True)
    # No destructors: see Llama. The lock goes with the process.
    os._exit(0)


def _while_it_works(settings: Settings, notifier: Notifier, sentence: str, stop: threading.Event) -> None:
    """Until `stop`; the watchdog is petted only when the server itself answered, and comes further with what it has
    to do, so a hanging one is restarted."""
    if not notifier.watchdog_seconds:
        stop.wait()
        return
    moved = progress.Progress(settings.stall_timeout_seconds, time.monotonic())
    while not stop.wait(notifier.watchdog_seconds / WATCHDOG_SHARE):
        if asyncio.run(_is_well(settings.socket_path, moved)):
            notifier.alive(sentence)


async def _is_well(socket_path: Path, moved: progress.Progress) -> bool:
    works = await progress.works(socket_path, moved, time.monotonic())
    return works and await http_health.answers(socket_path)


def _settings(given: argparse.Namespace) -> Settings:
    path, name = _proved_model(given.model)
    slots, context = given.slots or Settings.slots, given.context or Settings.context_tokens
    stall = given.stall_timeout or Settings.stall_timeout_seconds
    return Settings(path, given.name or name, given.socket.absolute(), slots, context, given.threads, stall)


def _proved_model(wanted: str) -> tuple[Path, str]:
    """A catalogue model is checked against its hash; a path is the user's own file and is taken as it is."""
    if "/" in wanted or wanted.endswith(".gguf"):
        path = Path(wanted)
        if not path.is_file():
            raise ModelFileMissingError(path=path)
        return path, path.stem
    return models.verify(models.find(wanted)), wanted


def _start(settings: Settings) -> Llama:
    """Needs the lock. The umask covers the bind inside the library, so the socket is never open to others."""
    settings.socket_path.unlink(missing_ok=True)
    before = os.umask(SOCKET_UMASK)
    try:
        return Llama(settings)
    finally:
        os.umask(before)


if __name__ == "__main__":
    sys.exit(main())
