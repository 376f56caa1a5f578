"""A virtual machine with a kernel of its own: for cgroup v2, pressure, and for pulling the plug.

Emulated (TCG), because /dev/kvm exists on some machines and hangs: everything is 10 to 50 times slower, so assert
states, never times. power_cut() kills QEMU with SIGKILL: what the guest had not synced is lost, as with a real plug;
boot() then boots the same disk. QEMU ends with the thread that booted it (setpriv --pdeathsig).
"""

from __future__ import annotations

import functools
import json
import os
import platform
import socket
import subprocess
import time
from pathlib import Path
from types import TracebackType

from tests.system.guest import ENVIRONMENT, Guest, GuestError
from tests.system.guest_agent import LENGTHS, PORT
from tests.system.image import Disk
from tests.system.machine import missing_tools
from tests.system.workdir import WorkDir

BOOT_SECONDS = 240.0
POWEROFF_SECONDS = 120.0
ANSWER_SECONDS = 60.0  # what an answer may take beyond the command's own time
TOOLS = ("qemu-system-x86_64", "mke2fs", "setpriv", "cp")
MASKED = ("serial-getty@ttyS0.service", "getty@tty1.service", "apt-daily.timer", "apt-daily-upgrade.timer",
          "systemd-networkd.service", "e2scrub_reap.service", "man-db.timer")  # fmt: skip
KERNEL = "root=/dev/vda rw console=ttyS0 quiet systemd.show_status=0 net.ifnames=0 psi=1 panic=-1"
QEMU = ("-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-nodefaults", "-no-user-config", "-nographic",
        "-no-reboot", "-device", "virtio-rng-pci", "-device", "virtio-serial-pci")  # fmt: skip


@functools.cache
def available() -> str:
    """Empty when virtual machines can be booted here, else the reason why not."""
    if platform.machine() != "x86_64":
        return f"no image for {platform.machine()}"
    if os.geteuid() != 0:
        return "not root: building the disk needs it"
    return missing_tools(TOOLS)


class VirtualMachine(Guest):
    """One disk of its own and, between boot() and poweroff() or power_cut(), one running QEMU."""

    poll_seconds = 0.2

    def __init__(self, disk: Disk, memory_mib: int = 2048, kernel_options: str = "") -> None:
        self._source = disk
        self._memory_mib = memory_mib
        self._kernel_options = kernel_options
        self.boot_seconds = 0.0

    def __enter__(self) -> VirtualMachine:
        self._work = WorkDir()
        self._qemu: subprocess.Popen[bytes] | None = None
        self._agent: socket.socket | None = None
        self.disk = self._work.path / "root.ext4"
        try:
            copy = ["cp", "--reflink=auto", "--sparse=always", str(self._source.ext4), str(self.disk)]
            subprocess.run(copy, check=True, timeout=300)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def boot(self) -> float:
        """Boot the disk as it is; returns the seconds until the system was up and the agent answered."""
        assert self._qemu is None, "already running"
        began = time.monotonic()
        address = self._work.path / "agent.sock"
        address.unlink(missing_ok=True)
        with (self._work.path / "console.log").open("wb") as output:
            self._qemu = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", *self._command(address)],
                stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True,
                env={**os.environ, "TMPDIR": "/var/tmp"},
            )  # fmt: skip
        self._agent = self._connect(address, began + BOOT_SECONDS)
        self._ask(["true"], b"", 10, began + BOOT_SECONDS - time.monotonic())
        while (state := self.state()) not in {"running", "degraded"}:
            if time.monotonic() > began + BOOT_SECONDS:
                raise GuestError(f"the guest is still {state!r} after {BOOT_SECONDS:.0f} s\n{self.console()}")
            time.sleep(self.poll_seconds)
        self.boot_seconds = time.monotonic() - began
        return self.boot_seconds

    def execute(self, argv: list[str], data: bytes, timeout: float) -> subprocess.CompletedProcess[bytes]:
        """Run through the agent, one command at a time; for a long running one use systemd-run."""
        return self._ask(argv, data, timeout, timeout + ANSWER_SECONDS)

    def poweroff(self) -> None:
        """Shut down in order. The disk stays; boot() may follow."""
        assert self._qemu is not None, "not running"
        self.run("systemctl", "--no-block", "poweroff")
        try:
            status = self._qemu.wait(POWEROFF_SECONDS)
        except subprocess.TimeoutExpired:
            raise GuestError(f"no poweroff within {POWEROFF_SECONDS:.0f} s\n{self.console()}") from None
        self.power_cut()
        if status != 0:
            raise GuestError(f"QEMU ended with {status}\n{self.console()}")

    def power_cut(self) -> None:
        """SIGKILL to QEMU: the guest's memory is gone, its disk keeps what was flushed. Harmless when not running."""
        if self._qemu is not None:
            self._qemu.kill()
            self._qemu.wait()
            self._qemu = None
        if self._agent is not None:
            self._agent.close()
            self._agent = None

    def close(self) -> None:
        """Pull the plug and remove the disk."""
        self.power_cut()
        self._work.remove()

    def console(self) -> str:
        """The end of the serial console."""
        return (self._work.path / "console.log").read_text(errors="replace")[-4000:]

    def _command(self, address: Path) -> list[str]:
        masks = " ".join(f"systemd.mask={unit}" for unit in MASKED)
        return [
            "qemu-system-x86_64", *QEMU, "-m", str(self._memory_mib),
            "-kernel", str(self._source.kernel), "-initrd", str(self._source.initrd),
            "-append", f"{KERNEL} {masks} {self._kernel_options}",
            "-drive", f"file={self.disk},format=raw,if=virtio,cache=writeback",
            "-chardev", f"socket,id=agent,path={address},server=on,wait=off",
            "-device", f"virtserialport,chardev=agent,name={PORT.rpartition('/')[2]}",
            "-serial", "stdio",
        ]  # fmt: skip

    def _connect(self, address: Path, deadline: float) -> socket.socket:
        assert self._qemu is not None
        while self._qemu.poll() is None and time.monotonic() < deadline:
            agent = socket.socket(socket.AF_UNIX)
            try:
                agent.connect(str(address))
            except OSError:
                agent.close()
                time.sleep(0.02)
            else:
                return agent
        raise GuestError(f"QEMU did not start\n{self.console()}")

    def _ask(self, argv: list[str], data: bytes, timeout: float, patience: float) -> subprocess.CompletedProcess[bytes]:
        """One request and its answer. After an error the connection is of no use any more: only power_cut() is left."""
        if self._agent is None:
            raise GuestError("the virtual machine is not running")
        header = json.dumps({"argv": argv, "env": ENVIRONMENT, "timeout": timeout}).encode()
        deadline = time.monotonic() + patience
        try:
            self._agent.settimeout(patience)
            self._agent.sendall(LENGTHS.pack(len(header), len(data)) + header + data)
            header_size, body_size = LENGTHS.unpack(self._receive(LENGTHS.size, deadline))
            answer = json.loads(self._receive(header_size, deadline))
            body = self._receive(body_size, deadline)
        except OSError as error:
            self._agent.close()
            self._agent = None
            raise GuestError(f"no answer from the guest to {argv}: {error}\n{self.console()}") from error
        out, err = body[: answer["out"]], body[answer["out"] :]
        if answer["status"] is None:
            raise subprocess.TimeoutExpired(argv, timeout, out, err)
        return subprocess.CompletedProcess(argv, answer["status"], out, err)

    def _receive(self, size: int, deadline: float) -> bytes:
        assert self._agent is not None
        data = bytearray()
        while len(data) < size:
            self._agent.settimeout(max(deadline - time.monotonic(), 0.001))
            part = self._agent.recv(min(size - len(data), 1 << 20))
            if not part:
                raise ConnectionResetError("QEMU closed the port")
            data += part
        return bytes(data)
