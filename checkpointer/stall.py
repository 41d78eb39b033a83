"""Whether a process that should be at work is: one that was stopped is set going, one that hangs is given up.

For page daemons: they have no answer that could be late, and an application waits for them as long as they live.
"""

from __future__ import annotations

import enum
from collections.abc import Callable

from checkpointer import processes

PATIENCE = 60.0
"""Seconds without any use of a CPU after which a process hangs; waiting for a disk does not count."""

STOPPED = 10.0
"""Seconds until one that was stopped is set going: who looks at it with a debugger is given that."""


class Advice(enum.Enum):
    """What to do about a process."""

    NOTHING = enum.auto()
    WAKE = enum.auto()  # somebody has stopped it
    END = enum.auto()  # it has done nothing for too long


class Stall:
    """What was seen of one process.

    Args:
        now: Monotonic seconds.
        patience: Seconds after which it hangs.
        stopped: Seconds after which it is set going.
        work: Tells a process's state and how much it has computed.
    """

    def __init__(
        self,
        now: float,
        *,
        patience: float = PATIENCE,
        stopped: float = STOPPED,
        work: Callable[[int], tuple[str, int]] = processes.work,
    ) -> None:
        self.patience = patience
        self._stopped = stopped
        self._work = work
        self._computed = -1
        self._since = now

    def look(self, pid: int, now: float) -> Advice:
        """Look at the process once more.

        Raises:
            ProcessLookupError: it has ended.
        """
        state, computed = self._work(pid)
        return self.judge(state, computed, now)

    def judge(self, state: str, computed: int, now: float) -> Advice:
        """Decide by its state (a letter of /proc/PID/stat) and by how much it has computed (in clock ticks)."""
        if computed != self._computed or state == "D":
            self._computed, self._since = computed, now
        if state == "T":
            return Advice.WAKE if now - self._since > self._stopped else Advice.NOTHING
        return Advice.END if now - self._since > self.patience else Advice.NOTHING
