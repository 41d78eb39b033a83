"""Does an application fit back in: its container's limits, those above it, and the node's memory.

Looked at before a restore, because running out in the middle is worse than waiting: with memory.oom.group=1, kubelet's
default, an OOM kills the supervisor as well, and on the node it kills whoever the kernel chooses.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterable, Sequence
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


class _Given(NamedTuple):
    """What a wake was given, and where it will be charged to.

    Attributes:
        memory: Bytes.
        groups: The cgroups with a limit.
        own: That of the container; None if it is not looked at.
        used: What that had in use before.
    """

    memory: int
    groups: frozenset[Path]
    own: Path | None
    used: int

    def rest(self) -> int:
        """Return what it has not filled yet, in bytes."""
        filled = 0
        if self.own is not None:
            with contextlib.suppress(OSError):  # it has ended
                filled = (memory_used(self.own) or 0) - self.used
        return self.memory - max(0, min(self.memory, filled))


class _Rival(NamedTuple):
    """Bytes that another wake has still to fill, and the cgroups with a limit that they count in."""

    rest: int
    groups: frozenset[Path]


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
        self._given: dict[str, _Given] = {}

    def take(self, container_id: str, supervisor_pid: int, need: Need) -> None:
        """Take room for a wake, until it is given back.

        Raises:
            NoRoom: there is none now.
            ProcessLookupError: the container has ended.
        """
        whole = Need(need.memory + _CRIU_BYTES, need.tasks + _CRIU_TASKS)
        groups = cgroups.of(supervisor_pid)
        # In this order: what is filled, or given back, between two looks counts twice rather than not at all.
        before = [other for taker, other in self._given.copy().items() if taker != container_id]
        rivals = [_Rival(other.rest(), other.groups) for other in before]
        found = bounds(groups)
        tasks(groups, whole)
        given = _given(whole, found, groups.controller("memory"))
        with self._lock:
            for taker, other in self._given.items():
                if taker != container_id and not any(other is one for one in before):
                    rivals.append(_Rival(other.memory, other.groups))
            fits(found, whole, rivals)
            others = sum(rival.rest for rival in rivals)
            left = self._left()
            if left is not None and left - others - self._reserve < whole.memory:
                raise NoRoom(
                    f"it needs {size(whole.memory)} of memory, and the node has {size(max(0, left - others))} left, of "
                    f"which the daemon's --memory-reserve keeps {size(self._reserve)}; end or move other pods",
                    kind=Kind.NO_ROOM_NODE,
                )
            self._given[container_id] = given

    def give_back(self, container_id: str) -> None:
        """The wake is over, whether its memory is in place by now or not needed."""
        with self._lock:
            self._given.pop(container_id, None)


class Bound(NamedTuple):
    """A cgroup's limit on memory: what is used below it and what it leaves, in bytes; whether it is the container's own."""

    group: Path
    used: int
    free: int
    own: bool


def bounds(groups: Cgroups) -> list[Bound]:
    """Return the limits on the memory of a container, its own and those above it."""
    memory = groups.controller("memory")
    found = []
    for group in cgroups.ancestors(memory):
        limit = memory_limit(group)
        used = memory_used(group) if limit is not None else None
        if limit is not None and used is not None:
            found.append(Bound(group, used, limit - used, group == memory))
    return found


def _given(need: Need, found: Sequence[Bound], memory: Path | None) -> _Given:
    """What a wake with these limits is given."""
    limited = frozenset(bound.group for bound in found)
    if not found or memory is None:
        return _Given(need.memory, limited, None, 0)
    own = found[0].used if found[0].own else memory_used(memory)
    return _Given(need.memory, limited, memory, own or 0)


def fits(found: Iterable[Bound], need: Need, rivals: Sequence[_Rival] = ()) -> None:
    """See whether a wake fits below its limits, beside what others have still to fill below the same.

    Raises:
        NoRoom: one leaves too little.
    """
    for bound in found:
        free = bound.free - sum(rival.rest for rival in rivals if bound.group in rival.groups)
        if free < need.memory:
            whose, kind = (
                ("container's", Kind.NO_ROOM_CONTAINER)
                if bound.own
                else ("pod's", Kind.NO_ROOM_POD)
            )
            raise NoRoom(
                f"it needs {size(need.memory)} of memory, and its {whose} limit has room for {size(max(0, free))} "
                f"({bound.group}); raise the limit, or end what else uses memory there",
                kind=kind,
            )


def tasks(groups: Cgroups, need: Need) -> None:
    """See whether a wake's tasks fit.

    Raises:
        NoRoom: a limit leaves too few.
    """
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


def memory_limit(directory: Path) -> int | None:
    """Return the bytes that fit into a cgroup, None without a limit."""
    limit = cgroups.number(directory / "memory.limit_in_bytes")
    return limit if limit is not None else cgroups.number(directory / "memory.max")


def memory_used(directory: Path) -> int | None:
    """Return the bytes that a cgroup has in use and cannot just drop, None without such a controller."""
    used = cgroups.number(directory / "memory.usage_in_bytes")
    if used is None:
        used = cgroups.number(directory / "memory.current")
    return None if used is None else used - cgroups.reclaimable(directory)
