"""Does an application fit back in: its container's limits, those above it, and the node's memory.

Looked at before a restore, because running out in the middle is worse than waiting: with memory.oom.group=1, kubelet's
default, an OOM kills the supervisor as well, and on the node it kills whoever the kernel chooses.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from checkpointer import cgroups
from checkpointer.cgroups import Cgroups
from checkpointer.errors import NoRoom
from checkpointer.kinds import Kind
from checkpointer.quantities import size

_CRIU_BYTES = 4 << 20  # what criu itself needs while it restores (measured: ~3 MB)
_CRIU_TASKS = 3  # criu, its helper and the middle process (one less failed with EAGAIN)


class Need(NamedTuple):
    """What a restore takes: bytes of memory, and tasks."""

    memory: int
    tasks: int


def available() -> int | None:
    """Return the bytes that the node can give without swapping, None if the kernel does not say."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) << 10
    return None


class Room:
    """Gives room to wakes; what one was given and has not filled yet is not given to the next.

    Args:
        reserve: Bytes that the node keeps.
        left: How the node's memory is looked at.
    """

    def __init__(self, reserve: int, left: Callable[[], int | None] = available) -> None:
        self._reserve = reserve
        self._left = left
        self._lock = threading.Lock()
        self._given: dict[str, int] = {}

    def take(self, container_id: str, supervisor_pid: int, need: Need) -> None:
        """Take room for a wake, until it is given back.

        Raises:
            NoRoom: there is none now.
            ProcessLookupError: the container has ended.
        """
        whole = Need(need.memory + _CRIU_BYTES, need.tasks + _CRIU_TASKS)
        check(cgroups.of(supervisor_pid), whole)
        with self._lock:
            others = sum(given for taker, given in self._given.items() if taker != container_id)
            left = self._left()
            if left is not None and left - others - self._reserve < whole.memory:
                raise NoRoom(
                    f"it needs {size(whole.memory)} of memory, and the node has {size(max(0, left - others))} left, of "
                    f"which the daemon's --memory-reserve keeps {size(self._reserve)}; end or move other pods",
                    kind=Kind.NO_ROOM_NODE,
                )
            self._given[container_id] = whole.memory

    def give_back(self, container_id: str) -> None:
        """The wake is over, whether its memory is in place by now or not needed."""
        with self._lock:
            self._given.pop(container_id, None)


def check(groups: Cgroups, need: Need) -> None:
    """Look at the limits of a container's cgroups and of those above it.

    Raises:
        NoRoom: one leaves too little.
    """
    memory = groups.controller("memory")
    for directory in cgroups.ancestors(memory):
        free = memory_left(directory)
        if free is not None and free < need.memory:
            whose, kind = (
                ("container's", Kind.NO_ROOM_CONTAINER)
                if directory == memory
                else ("pod's", Kind.NO_ROOM_POD)
            )
            raise NoRoom(
                f"it needs {size(need.memory)} of memory, and its {whose} limit has room for {size(max(0, free))} "
                f"({directory}); raise the limit, or end what else uses memory there",
                kind=kind,
            )
    pids = groups.controller("pids")
    if pids != groups.v2:
        return  # on version 1 tasks move in later, which no limit refuses
    for directory in cgroups.ancestors(pids):
        limit, used = (
            cgroups.number(directory / "pids.max"),
            cgroups.number(directory / "pids.current"),
        )
        if limit is not None and used is not None and limit - used < need.tasks:
            raise NoRoom(
                f"it needs {need.tasks} tasks, and the limit of {directory} has room for {max(0, limit - used)}; raise "
                "the limit (the kubelet's podPidsLimit), or end what else runs there",
                kind=Kind.NO_ROOM_TASKS,
            )


def memory_left(directory: Path) -> int | None:
    """Return the bytes that still fit into a cgroup, None without a limit."""
    limit = cgroups.number(directory / "memory.limit_in_bytes")
    used = cgroups.number(directory / "memory.usage_in_bytes")
    if used is None:
        limit, used = (
            cgroups.number(directory / "memory.max"),
            cgroups.number(directory / "memory.current"),
        )
    if limit is None or used is None:
        return None
    return limit - used + cgroups.reclaimable(directory)
