"""Why an application cannot have its pids back: somebody else has one, or there may be no more tasks."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import NamedTuple

from checkpointer import processes

# criu/cr-restore.c: fork_with_pid; criu/pie/restorer.c, whose numbers are the kernel's
_TAKEN = re.compile(r"Can't fork for \d+: File exists|Unable to create a thread: -17\b")


_FEW = re.compile(
    r"Can't fork for \d+: Resource temporarily unavailable|Unable to create a thread: -11\b"
)


class Taker(NamedTuple):
    """A process in the way.

    Attributes:
        pid: Its pid as the host sees it.
        name: Its name.
        vpid: The pid, or a thread's, that it has in the container.
    """

    pid: int
    name: str
    vpid: int

    def __str__(self) -> str:
        return f"process {self.pid} ({self.name}) is pid {self.vpid} in the container"


def tells_taken(texts: Iterable[str]) -> bool:
    """Say whether criu's words mean that a pid was taken."""
    return any(map(_TAKEN.search, texts))


def tells_few(texts: Iterable[str]) -> bool:
    """Say whether criu's words mean that a limit lets it make no more tasks."""
    return any(map(_FEW.search, texts))


def takers(supervisor: int, wanted: Collection[int]) -> list[Taker]:
    """Return the processes of a container that have one of the pids `wanted`."""
    found = []
    inside = processes.ns_inode(supervisor, "pid")
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            pid = int(entry.name)
            if processes.ns_inode(pid, "pid") != inside or not processes.alive(pid):
                continue
            for tid in processes.tasks(pid):
                if (vpid := processes.vpid(tid)) in wanted:
                    found.append(Taker(pid, processes.comm(pid), vpid))
                    break
    return found
