"""Run a function inside a network namespace, on a thread of its own."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from bpf import inside, syscall

T = TypeVar("T")


def inode(pid: int) -> int:
    """Return the number of the network namespace of `pid`."""
    return Path(f"/proc/{pid}/ns/net").stat().st_ino


def run(pid: int, function: Callable[[], T], *, inode: int | None = None) -> T:
    """Return `function()` as called in the network namespace of `pid`.

    The thread ends with the call: a namespace once entered is never given to other work.

    Args:
        pid: any process in the namespace.
        function: called without arguments.
        inode: the number the namespace must have; a pid may have been given to another process.

    Raises:
        OSError: the process is gone, or the namespace is another or cannot be entered.
    """
    fd = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        if inode is not None and os.fstat(fd).st_ino != inode:
            raise OSError(errno.ESRCH, f"process {pid} is not in network namespace {inode}")
        return inside.call(fd, syscall.CLONE_NEWNET, function)
    finally:
        os.close(fd)
