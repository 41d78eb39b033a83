"""The one way `dev/` runs a program: quiet while it works, complete when it fails."""

from __future__ import annotations

import logging
import os
import shlex
import subprocess
import threading
from pathlib import Path
from typing import List, Mapping, Optional, Sequence, Tuple, Union

from dev.lib.errors import DevError

log = logging.getLogger("dev")

Argument = Union[str, Path]

_followed: "List[subprocess.Popen[bytes]]" = []
_over = threading.Event()
_lock = threading.Lock()


def run(
    command: Sequence[Argument],
    *,
    env: Optional[Mapping[str, str]] = None,
    cwd: Optional[Path] = None,
    stdin: Optional[str] = None,
) -> str:
    """Runs a program to its end and returns what it wrote to stdout.

    Raises:
        DevError: It could not be started or failed; carries the command and the last 30 lines.
    """
    line = " ".join(shlex.quote(str(word)) for word in command)
    log.debug("+ %s", line)
    try:
        done = subprocess.run(
            [str(word) for word in command],
            check=False,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            input=stdin if stdin is not None else "",
            universal_newlines=True,
            env=dict(os.environ, LC_ALL="C.UTF-8") if env is None else dict(env),
            cwd=cwd,
        )
    except OSError as error:
        raise DevError("cannot run %s: %s" % (line, error)) from error
    if done.returncode:
        tail = "\n  ".join((done.stdout + done.stderr).splitlines()[-30:])
        raise DevError("failed (exit status %d): %s\n  %s" % (done.returncode, line, tail))
    return done.stdout


def call(
    command: Sequence[Argument],
    *,
    env: Optional[Mapping[str, str]] = None,
    cwd: Optional[Path] = None,
) -> int:
    """Runs a program on our own stdin, stdout and stderr and returns its exit status."""
    words = [str(word) for word in command]
    return subprocess.run(words, check=False, env=env, cwd=cwd).returncode


def follow(
    command: Sequence[Argument], name: str, *, limit: float = 0, pass_fds: Sequence[int] = ()
) -> Tuple[int, List[str]]:
    """Runs a program and shows its lines as they come, after a name.

    Args:
        command: the program.
        name: who says it; "" for nobody.
        limit: seconds after which it is killed; 0 for never.
        pass_fds: descriptors it shall have.

    Returns:
        Its exit status and all its lines.

    Raises:
        DevError: `end_followed` was called.
    """
    lines: List[str] = []
    with _lock:
        if _over.is_set():
            raise DevError("ended")
        done = subprocess.Popen(
            [str(word) for word in command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            pass_fds=tuple(pass_fds),
        )
        _followed.append(done)
    timer = threading.Timer(limit, done.kill)
    if limit:
        timer.start()
    try:
        assert done.stdout
        for line in done.stdout:
            lines.append(line.decode("utf-8", "replace").rstrip())
            log.info("%s%s", "[%s] " % name if name else "", lines[-1])
    finally:
        timer.cancel()
        done.kill()
        done.wait()
        _followed.remove(done)
    return done.returncode, lines


def end_followed() -> None:
    """Kills the programs that are being followed, in whichever thread, and lets none begin any more."""
    with _lock:
        _over.set()
        for one in _followed:
            one.kill()


def spawn(
    command: Sequence[Argument], *, output: Path, pass_fds: Sequence[int] = ()
) -> "subprocess.Popen[bytes]":
    """Starts a program in a session of its own, its output in a file, and does not wait for it."""
    with output.open("ab") as stream:
        return subprocess.Popen(
            [str(word) for word in command],
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=stream,
            start_new_session=True,
            pass_fds=tuple(pass_fds),
        )
