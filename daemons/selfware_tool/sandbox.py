"""Builds the bubblewrap command line: what an action can see and touch. Pure; looks at nothing.

Inside there is the system's /usr read-only, the Python environment read-only, the workspace, an empty /tmp, and
nothing else: no network, no sockets, no home, no state directory, no other process. Everything that is not the
workspace, /tmp or /dev/shm is read-only.
"""

from __future__ import annotations

from selfware_common.record import NamedTuple

from .request import Features, Limits, PythonHome

BWRAP = "/usr/bin/bwrap"
TOOL_DIRECTORY = "/run/selfware"  # inside the sandbox: files of ours
IDENTITY = "Selfware"

# The command waits for a line on its standard input before it begins. If the runner dies before bubblewrap has asked
# the kernel to die with it, that line never comes, and nothing runs.
GATE = 'read -r go || exit 125; exec "$@" </dev/null'


class Mount(NamedTuple):
    """A path of this machine shown at the same place inside."""

    path: str
    writable: bool = False


class DataFile(NamedTuple):
    """An open file whose content appears inside as a read-only file; bubblewrap closes the descriptor."""

    fd: int
    path: str


class SystemRoot(NamedTuple):
    """How this machine lays out /bin, /lib and their like: as links into /usr or as directories of their own."""

    links: tuple[tuple[str, str], ...] = (
        ("/bin", "usr/bin"),
        ("/sbin", "usr/sbin"),
        ("/lib", "usr/lib"),
        ("/lib64", "usr/lib64"),
    )
    directories: tuple[str, ...] = ()


class SandboxSpec(NamedTuple):
    """One sandbox. ``pins`` are mounted over the workspace: the parts of it that an action must not change."""

    workspace: str
    cwd: str
    python: PythonHome
    limits: Limits
    features: Features
    system: SystemRoot = SystemRoot()
    pins: tuple[Mount, ...] = ()
    read_only: tuple[str, ...] = ()
    files: tuple[DataFile, ...] = ()
    env: tuple[tuple[str, str], ...] = ()
    network: bool = False
    status_fd: int = -1


def bwrap_argv(spec: SandboxSpec, command: tuple[str, ...]) -> list[str]:
    """The whole command line, resource limits included, that runs ``command`` inside."""
    outside, within = _python_mounts(spec)
    return [
        BWRAP,
        *_isolation(spec),
        *_environment(spec),
        *_system(spec),
        *_mounts(outside),
        *_mounts((Mount(spec.workspace, writable=True),)),
        *_mounts(spec.pins),
        *_mounts(within),
        *(word for file in spec.files for word in ("--perms", "0444", "--file", str(file.fd), file.path)),
        # /proc above all: root owns the kernel's settings there even without capabilities, so a writable one would let
        # an action that runs as root have the kernel start a program of its choice outside.
        *("--remount-ro", "/proc", "--remount-ro", "/dev", "--remount-ro", "/"),
        *("--chdir", spec.cwd),
        "--",
        *limited(spec.limits, command),
    ]


def gated(argv: tuple[str, ...]) -> tuple[str, ...]:
    """A command that begins when a line arrives on its standard input, and then has none."""
    return ("/bin/sh", "-c", GATE, "sh", *argv)


def environment(spec: SandboxSpec) -> dict[str, str]:
    """All the environment there is inside; the action's own variables come last and win."""
    return {
        "PATH": f"{spec.python.bin_directory}:/usr/local/bin:/usr/bin:/bin",
        "HOME": "/tmp/home",  # noqa: S108  (the sandbox's own)
        "TMPDIR": "/tmp",  # noqa: S108
        "LANG": "C.UTF-8",
        "TERM": "dumb",
        "PAGER": "cat",
        "PYTHONDONTWRITEBYTECODE": "1",
        "GIT_AUTHOR_NAME": IDENTITY,
        "GIT_AUTHOR_EMAIL": "selfware@localhost",
        "GIT_COMMITTER_NAME": IDENTITY,
        "GIT_COMMITTER_EMAIL": "selfware@localhost",
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_PAGER": "cat",
        "GIT_TERMINAL_PROMPT": "0",
        **dict(spec.env),
    }


def is_within(path: str, directory: str) -> bool:
    """Whether path is directory or lies below it. Both absolute and normal."""
    return path == directory or path.startswith(directory.rstrip("/") + "/")


def _isolation(spec: SandboxSpec) -> list[str]:
    words = ["--unshare-user", "--unshare-ipc", "--unshare-pid", "--unshare-uts", "--unshare-cgroup-try"]
    if not spec.network:
        words += ["--unshare-net"]
    if spec.features.disable_userns:
        words += ["--disable-userns"]
    words += ["--new-session", "--die-with-parent", "--cap-drop", "ALL", "--hostname", "sandbox"]
    if spec.status_fd >= 0:
        words += ["--json-status-fd", str(spec.status_fd)]
    return words


def _environment(spec: SandboxSpec) -> list[str]:
    words = ["--clearenv"]
    for name, value in environment(spec).items():
        words += ["--setenv", name, value]
    return words


def _system(spec: SandboxSpec) -> list[str]:
    words = ["--ro-bind", "/usr", "/usr"]
    for path, target in spec.system.links:
        words += ["--symlink", target, path]
    for path in spec.system.directories:
        words += ["--ro-bind", path, path]
    words += ["--proc", "/proc", "--dev", "/dev"]
    size = ["--size", str(spec.limits.temporary_bytes)]
    sized = size if spec.features.tmpfs_size and spec.limits.temporary_bytes else []
    words += [*sized, "--tmpfs", "/dev/shm", *sized, "--tmpfs", "/tmp", "--dir", "/tmp/home"]  # noqa: S108
    for path in ("/etc/ld.so.cache", "/etc/alternatives", "/etc/localtime", "/etc/mime.types"):
        words += ["--ro-bind-try", path, path]
    if spec.network:
        for path in ("/etc/resolv.conf", "/etc/ssl", "/etc/ca-certificates"):
            words += ["--ro-bind-try", path, path]
    return words


def _python_mounts(spec: SandboxSpec) -> tuple[list[Mount], list[Mount]]:
    """The read-only directories, parted into those mounted before the workspace and those that lie in it."""
    wanted = [*spec.python.directories, *spec.read_only]
    shown = [path for path in dict.fromkeys(wanted) if not is_within(path, "/usr")]
    within = [Mount(path) for path in shown if is_within(path, spec.workspace)]
    outside = [Mount(path) for path in shown if not is_within(path, spec.workspace)]
    return outside, within


def _mounts(mounts: tuple[Mount, ...] | list[Mount]) -> list[str]:
    words = []
    for mount in mounts:
        words += ["--bind" if mount.writable else "--ro-bind", mount.path, mount.path]
    return words


def limited(limits: Limits, command: tuple[str, ...]) -> list[str]:
    """The command under its limits, set inside, after the user namespace exists: the number of processes is then
    counted for this sandbox alone."""
    amounts = {
        "as": limits.memory_bytes,
        "nproc": limits.processes,
        "fsize": limits.file_bytes,
        "nofile": limits.open_files,
        "cpu": limits.cpu_seconds,
    }
    words = ["/usr/bin/prlimit", "--core=0:0"]
    words += [f"--{name}={amount}:{amount}" for name, amount in amounts.items() if amount]
    return [*words, "--", *command]
