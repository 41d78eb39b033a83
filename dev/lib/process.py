"""The one way `dev/` runs a program: quiet while it works, complete when it fails."""

from __future__ import annotations

import logging
import os
import shlex
import subprocess
from pathlib import Path
from typing import Mapping, Optional, Sequence, Union

from dev.lib.errors import DevError

log = logging.getLogger("dev")

Argument = Union[str, Path]


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
