"""The pipes that an application writes its logs to: the supervisor's, over all sleeps."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from bpf import syscall
from checkpointer import processes


@contextlib.contextmanager
def handed_on(supervisor: int) -> Iterator[tuple[list[str], list[int]]]:
    """Duplicate the supervisor's stdio pipes for the application: criu's names for them, and descriptors.

    The very open files, not new ones by path: the application shared them with the supervisor before, and opening
    the read end of a pipe without a writer would block.
    """
    keys: list[str] = []
    fds: list[int] = []
    pidfd = os.pidfd_open(supervisor)
    try:
        for fd, key in processes.pipes(supervisor).items():
            if key not in keys:
                fds.append(syscall.pidfd_getfd(pidfd, fd))
                keys.append(key)
        yield keys, fds
    finally:
        os.close(pidfd)
        for fd in fds:
            os.close(fd)
