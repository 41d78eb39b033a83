"""Who waits in an execve at the door of one container: the descriptors by which each is answered, a bounded number."""

from collections.abc import Callable, Collection

from checkpointer import processes

MOST = 64
"""Execs that may wait for one wake. A wake takes milliseconds, so that many wait only where there is no room for the
application for long; each costs the daemon a descriptor, and exec probes come again and again."""


class Waiters:
    """Execs of one container.

    Args:
        most: How many may wait.
        alive: Tells whether a process still does.
    """

    def __init__(self, most: int = MOST, alive: Callable[[int], bool] = processes.alive) -> None:
        self._most = most
        self._alive = alive
        self._pids: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._pids)

    def add(self, fd: int, pid: int) -> bool:
        """Have a process wait; False if too many do."""
        if len(self._pids) >= self._most:
            return False
        self._pids[fd] = pid
        return True

    def drop(self, fd: int) -> None:
        """Forget one, who is answered otherwise."""
        self._pids.pop(fd, None)

    def take(self, pids: Collection[int] | None = None) -> list[int]:
        """Remove and return the descriptors of these processes; of all by default."""
        return self._remove(lambda pid: pids is None or pid in pids)

    def take_ended(self) -> list[int]:
        """Remove and return those of processes that were killed meanwhile: the kernel tells nobody."""
        return self._remove(lambda pid: not self._alive(pid))

    def _remove(self, unwanted: Callable[[int], bool]) -> list[int]:
        found = [fd for fd, pid in self._pids.items() if unwanted(pid)]
        for fd in found:
            del self._pids[fd]
        return found
