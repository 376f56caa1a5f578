"""`python -m selfware_engine --model NAME|PATH --socket PATH`: prove the model, serve it until SIGTERM.

Holds ``<socket>.lock`` for its whole life, so a second engine cannot steal the socket of a living one, and
a socket that a killed engine left behind can be removed safely.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import signal
import sys
import threading
import time
from pathlib import Path
from types import FrameType

from selfware_common import log, models
from selfware_common.errors import AlreadyRunningError, SelfwareError, SocketPathTooLongError
from selfware_common.notify import Notifier
from selfware_engine.llama import Llama, Settings

LONGEST_SOCKET_PATH_BYTES = 107
SOCKET_UMASK = 0o117


class ModelFileMissingError(SelfwareError):
    """There is no model file {path}."""

    exit_code = 66  # EX_NOINPUT
    hint = "Give a path to a GGUF file, or a name that 'selfwarectl models ls' shows."


def main() -> int:
    """Ends with 0 at SIGTERM; returns an error's own code after saying its sentence."""
    logger = log.setup("selfware-engine")
    try:
        settings = _settings(sys.argv[1:])
        _take_lock(settings.socket_path)
        began = time.monotonic()
        _engine = _start(settings)
    except SelfwareError as error:
        logger.error("%s", error)
        return error.exit_code
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
    stop.wait()
    notifier.stopping("stopping")
    settings.socket_path.unlink(missing_ok=True)
    # No destructors: see Llama. The lock goes with the process.
    os._exit(0)


def _settings(arguments: list[str]) -> Settings:
    parser = argparse.ArgumentParser(
        prog="selfware-engine", description="Serve one model with llama.cpp on a Unix socket."
    )
    parser.add_argument("--model", required=True, help="a name of the catalogue, or a path to a GGUF file")
    parser.add_argument("--socket", required=True, type=Path, help="the Unix socket to serve on")
    parser.add_argument("--slots", type=int, default=Settings.slots, help="requests decoded at the same time")
    parser.add_argument("--context", type=int, default=Settings.context_tokens, help="tokens one request may use")
    parser.add_argument("--threads", type=int, default=0, help="0 = all cores but one")
    given = parser.parse_args(arguments)
    path, name = _proved_model(given.model)
    return Settings(path, name, given.socket.absolute(), given.slots, given.context, given.threads)


def _proved_model(wanted: str) -> tuple[Path, str]:
    """A catalogue model is checked against its hash; a path is the user's own file and is taken as it is."""
    if "/" in wanted or wanted.endswith(".gguf"):
        path = Path(wanted)
        if not path.is_file():
            raise ModelFileMissingError(path=path)
        return path, path.stem
    return models.verify(models.find(wanted)), wanted


def _take_lock(socket_path: Path) -> None:
    """Open and lock for the life of the process; the kernel lets go of it at any death of ours."""
    if (length := len(os.fsencode(socket_path))) > LONGEST_SOCKET_PATH_BYTES:
        raise SocketPathTooLongError(path=socket_path, length=length, limit=LONGEST_SOCKET_PATH_BYTES)
    socket_path.parent.mkdir(parents=True, exist_ok=True, mode=0o750)
    path = socket_path.with_name(socket_path.name + ".lock")
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(lock, 32, 0).decode("ascii", "replace").strip() or "unknown"
        os.close(lock)
        raise AlreadyRunningError(daemon="selfware-engine", pid=holder, path=path) from None
    os.ftruncate(lock, 0)
    os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)


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
