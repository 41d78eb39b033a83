"""Is a container's program there? Looked up inside the container, before it starts.

The runtime says so itself if a program is missing, but under the supervisor it finds the
supervisor. This keeps the usual error, at the usual moment.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import stat
import threading
from collections.abc import Iterable, Sequence

from bpf import syscall

TIMEOUT = 0.5
"""Seconds; far below NRI's 2 s. A file system that hangs must not cost the container its start."""

HUNG_LIMIT = 4
"""Look-ups that may hang at once; while so many do, no further one is tried."""


class Lookup:
    """Looks programs up in the mount namespaces of containers."""

    def __init__(self) -> None:
        self._running = 0

    async def problem(self, pid: int, args: Sequence[str], env: Iterable[str]) -> str:
        """Return the runtime's error for a program that is not there, "" if it is.

        In doubt "": then the supervisor reports the error, later and in its own words.

        Args:
            pid: of the container's process before it executes its program (runc init).
            args: of the container, as its image and pod say.
            env: of the container, "KEY=value".
        """
        path = search_path(env)
        # Below /proc a name means something else to us than to the process itself.
        if not args or args[0].startswith("/proc/") or path is None or self._running >= HUNG_LIMIT:
            return ""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[str] = loop.create_future()

        def done(problem: str) -> None:
            self._running -= 1
            if not answer.done():
                answer.set_result(problem)

        def work() -> None:
            problem = _inside(pid, args[0], path)
            with contextlib.suppress(RuntimeError):  # the loop may have ended meanwhile
                loop.call_soon_threadsafe(done, problem)

        self._running += 1
        # A thread of its own: it cannot leave the container's file system again, and it may hang.
        threading.Thread(target=work, daemon=True, name=f"lookup-{pid}").start()
        try:
            return await asyncio.wait_for(asyncio.shield(answer), TIMEOUT)
        except TimeoutError:
            return ""


def search_path(env: Iterable[str]) -> str | None:
    """Return the value of PATH that runc uses: the last one. None: there is none."""
    return next((entry[5:] for entry in reversed(list(env)) if entry.startswith("PATH=")), None)


def find(name: str, path: str) -> str:
    """Look `name` up in the present root as Go's exec.LookPath does for runc.

    Returns:
        The error as runc words it, "" if the program is there.
    """
    if "/" in name:
        problem = _executable(name)
        return f'exec: "{name}": {problem}' if problem else ""
    for directory in path.split(":"):
        if not _executable(f"{directory or '.'}/{name}"):
            return ""
    return f'exec: "{name}": executable file not found in $PATH'


def _executable(name: str) -> str:
    try:
        mode = os.stat(name).st_mode  # noqa: PTH116 - nothing but the system call in there
    except OSError as error:
        return f"stat {name}: {(error.strerror or 'failed').lower()}"
    if stat.S_ISDIR(mode):
        return "is a directory"
    return "" if mode & 0o111 else "permission denied"


def _inside(pid: int, name: str, path: str) -> str:
    """Do `find` in the container of `pid`; makes the calling thread useless for anything else.

    In there nothing may be imported or read as code: the thread's root is the container's. Only
    stat is called, and whatever goes wrong ends here.
    """
    try:
        directory = os.open(f"/proc/{pid}/cwd", os.O_PATH | os.O_CLOEXEC)
        try:
            namespace = os.open(f"/proc/{pid}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
            try:
                syscall.unshare(syscall.CLONE_FS)
                syscall.setns(namespace, syscall.CLONE_NEWNS)
            finally:
                os.close(namespace)
            os.fchdir(directory)
        finally:
            os.close(directory)
        return find(name, path)
    except Exception:  # noqa: BLE001 - reporting it would read files; in doubt the container starts
        return ""
