"""Knows which command lines are plainly harmless inside the sandbox, and which run whatever text they are given.

Lists what is known to be harmless, word by word; anything it does not recognise is not harmless. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

# Programs that execute text or another program given as an argument, a file or on standard input. A pattern that
# approves one of them approves everything, so no pattern does.
_INTERPRETERS = """
    sh bash dash ash zsh ksh mksh csh tcsh fish pwsh busybox toybox
    python pythonw pypy ipython perl ruby irb node nodejs deno bun lua luajit php tclsh wish expect guile racket
    scheme clojure groovy scala java jshell kotlin julia R Rscript octave swift ghc runghc ghci ocaml erl elixir iex
    awk gawk mawk nawk sed ed ex vi vim nvim view emacs nano m4 bc dc gdb lldb strace ltrace
    env xargs parallel sudo su doas pkexec runuser setpriv capsh chroot unshare nsenter setsid nohup nice ionice
    chrt taskset timeout time stdbuf watch script scriptreplay flock systemd-run dbus-run-session ssh sshpass socat nc
    ncat netcat eval exec command builtin source at batch crontab start-stop-daemon run-parts ld.so entr
    tox nox uv uvx pipx npx npm pnpm yarn docker podman bwrap firejail
"""
INTERPRETERS = frozenset(_INTERPRETERS.split())
# Programs that become one with a certain option.
EXECUTING_OPTIONS: dict[str, tuple[str, ...]] = {
    "find": ("-exec", "-execdir", "-ok", "-okdir", "-delete", "-fprint", "-fprintf", "-fprint0", "-fls"),
    "fd": ("-x", "-X", "--exec"),
    "git": ("-c", "--config-env", "--exec-path", "-p", "--paginate", "--upload-pack", "--receive-pack", "-x", "--exec"),
    "tar": ("-I", "-F", "--to-command", "--checkpoint-action", "--use-compress-program", "--info-script", "--rsh"),
    "rsync": ("-e", "--rsh", "--rsync-path"),
    "sort": ("--compress-program",),
    "rg": ("--pre",),
    "make": ("--eval", "-E"),
    "gcc": ("-wrapper",),
    "man": ("-P", "-H"),
    "zip": ("-TT", "--unzip-command"),
}
_GIT_EXECUTING = frozenset(
    {"bisect", "config", "difftool", "filter-branch", "mergetool", "rebase", "submodule", "worktree", "daemon", "hook"}
)
_VERSION_SUFFIX = re.compile(r"[-.]?\d[\d.]*[a-z]{0,2}$")
_SHORT_OPTION = re.compile(r"-[A-Za-z0-9]+")


def is_plain_path(path: str) -> bool:
    """Relative, inside, not git's own, and nothing that a program could take for an option or magic."""
    if not path or path.startswith(("/", "-", ":", "~")) or not path.isprintable():
        return False
    return all(part != ".." and not _is_git_name(part) for part in path.split("/"))


def runs_any_text(argv: Sequence[str]) -> bool:
    """Whether the command is an interpreter, a shell, a wrapper, or used as one."""
    name = argv[0].rsplit("/", 1)[-1]
    bare = _VERSION_SUFFIX.sub("", name)
    if name in INTERPRETERS or bare in INTERPRETERS or name.startswith(("python", "ld-linux", "pypy")):
        return True
    options = EXECUTING_OPTIONS.get(bare, ())
    if any(word == option or _glued(word, option) for word in argv[1:] for option in options):
        return True
    return bare == "git" and (any(word in _GIT_EXECUTING for word in argv[1:]) or any("!" in w for w in argv[1:]))


def is_plainly_reading(argv: Sequence[str]) -> bool:
    """ls, cat, head, tail, wc, pwd with short options and plain relative paths."""
    if argv[0] not in _READERS or (argv[0] == "pwd" and len(argv) > 1):
        return False
    follows = frozenset("fF") if argv[0] == "tail" else frozenset("")
    return all(
        is_plain_path(word) or (_SHORT_OPTION.fullmatch(word) is not None and not follows & set(word))
        for word in argv[1:]
    )


def is_plain_commit_step(argv: Sequence[str]) -> bool:
    """One of the git forms that committing finished work, looking at it and undoing it consist of; exactly these."""
    if len(argv) < 2 or argv[0] != "git":
        return False
    if tuple(argv) in _GIT_FIXED:
        return True
    form = _GIT_FORMS.get(argv[1])
    return form is not None and form(list(argv[2:]))


def _is_git_name(part: str) -> bool:
    """.git as any file system might read it."""
    return part.casefold().rstrip(" .") in {".git", "git~1"}


def _glued(word: str, option: str) -> bool:
    """--option=value, or -Ovalue for a one-letter option."""
    if option.startswith("--"):
        return word.startswith(option + "=")
    return len(option) == 2 and word.startswith(option) and not word.startswith("--")


def _paths_after_dashes(words: list[str]) -> bool:
    return len(words) >= 2 and words[0] == "--" and all(is_plain_path(path) for path in words[1:])


def _clean(words: list[str]) -> bool:
    return words[:1] == ["-f"] and _paths_after_dashes(words[1:])


def _commit(words: list[str]) -> bool:
    message, paths = words[2:3], words[3:]
    return words[:2] == ["-q", "-m"] and any(map(str.strip, message)) and (not paths or _paths_after_dashes(paths))


def _log(words: list[str]) -> bool:
    if words[:1] != ["--oneline"]:
        return False
    return len(words) == 1 or (len(words) == 3 and words[1] == "-n" and words[2].isascii() and words[2].isdigit())


_READERS = frozenset({"ls", "cat", "head", "tail", "wc", "pwd"})
_GIT_FIXED = frozenset(
    {
        ("git", "add", "-A"),
        ("git", "status", "--porcelain"),
        ("git", "rev-parse", "HEAD"),
        ("git", "diff"),
        ("git", "diff", "HEAD"),
        ("git", "diff", "--stat"),
        ("git", "diff", "--stat", "HEAD"),
    }
)
_GIT_FORMS: dict[str, Callable[[list[str]], bool]] = {
    "add": _paths_after_dashes,
    "checkout": _paths_after_dashes,
    "clean": _clean,
    "commit": _commit,
    "log": _log,
}
