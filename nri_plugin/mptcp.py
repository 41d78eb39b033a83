"""MPTCP, switched off in the network namespace of a pod before its program can listen with it.

Programs in Go 1.24 and later listen with MPTCP where the kernel offers it; criu cannot dump such a socket (criu#2655).
Without it `listen` and `connect` fall back to TCP by themselves, on the side of the peer too.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
from collections.abc import Callable
from pathlib import Path

from bpf import inside, syscall

_SYSCTL = Path("/proc/sys/net/mptcp/enabled")
"""Of the network namespace of who reads or writes it, wherever that file is seen."""

_WRITABLE = (_SYSCTL, Path("/proc/1/root") / _SYSCTL.relative_to("/"))
"""A container's own /proc/sys is read-only unless it is privileged; that of the node's first process is not."""


class Pods:
    """The pods in which it is off because of us; an empty file for each, since the next plugin has to know, too.

    Args:
        folder: Where those files are; made when needed.
        switch: Sets it where a process is, and tells whether it was otherwise.
    """

    def __init__(self, folder: Path, switch: Callable[[int, bool], bool]) -> None:
        self._folder = folder
        self._switch = switch

    async def off(self, sandbox_id: str, pid: int) -> None:
        """Switch it off in the pod of which `pid` is.

        Raises:
            OSError: it cannot be, or nobody would know later that it was.
        """
        if await asyncio.to_thread(self._switch, pid, False):
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            (self._folder / sandbox_id).touch()

    async def on(self, sandbox_id: str, pid: int) -> None:
        """Give it back to a pod, if it was taken away by us and `pid`, one of the pod's, still lives."""
        if (self._folder / sandbox_id).exists():
            self.forget(sandbox_id)
            with contextlib.suppress(OSError):  # the pod is going
                await asyncio.to_thread(self._switch, pid, True)

    def forget(self, sandbox_id: str) -> None:
        """Forget a pod that is gone."""
        (self._folder / sandbox_id).unlink(missing_ok=True)

    def known(self) -> set[str]:
        """Return the sandboxes in which it is off because of us."""
        return {one.name for one in self._folder.iterdir()} if self._folder.is_dir() else set()


def switch(pid: int, on: bool) -> bool:
    """Set net.mptcp.enabled where `pid` is; return whether it was otherwise.

    Nothing happens in the host's own namespace, nor on a kernel without MPTCP.

    Raises:
        OSError: the process is gone, or the sysctl cannot be written.
    """
    own = Path("/proc/1/ns/net").stat().st_ino, Path("/proc/thread-self/ns/net").stat().st_ino
    fd = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        if os.fstat(fd).st_ino in own:
            return False
        return inside.call(fd, syscall.CLONE_NEWNET, lambda: _write(on))
    finally:
        os.close(fd)


def _write(on: bool) -> bool:
    wanted = f"{int(on)}\n"
    if not _SYSCTL.exists() or _SYSCTL.read_text() == wanted:
        return False
    for path in _WRITABLE:
        try:
            path.write_text(wanted)
        except OSError as error:
            if error.errno != errno.EROFS or path == _WRITABLE[-1]:
                raise
        else:
            break
    return True
