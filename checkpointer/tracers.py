"""The two processes beside a dumping criu: one traces for it and undoes its work if it ends early, the other stands by.

They are children of the zygote, as criu is, and share its memory; see supervisor/criu-tracer.c. While they live the
application is theirs: what is written of it holds as long as both do, and it is itself again when both have ended.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from typing import Self

from checkpointer import processes
from checkpointer.errors import CriuError
from checkpointer.worker import Worker
from checkpointer.zygote import Zygotes

NAMES = frozenset({"zeropod:tracer", "zeropod:second"})
_FIND_SECONDS = 1.0  # they are there before criu is, but a list of children may miss some
_PATIENCE = 40.0  # seconds to undo; a thread that waits for a disk cannot be stopped before
_NUDGE = 0.5
_POLL = 0.01


class Tracers:
    """The helpers of one criu, known by descriptors; close it when done with it."""

    def __init__(self, pids: list[int]) -> None:
        self._pidfds: list[int] = []
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                self._pidfds.append(os.pidfd_open(pid))

    @classmethod
    def of(cls, zygotes: Zygotes, worker: Worker, supervisor_pid: int) -> Self:
        """Find those of a worker that is at work in a container."""
        deadline = time.monotonic() + _FIND_SECONDS
        found: dict[str, int] = {}
        while len(found) < len(NAMES) and time.monotonic() < deadline and not worker.wait(0):
            for pid in zygotes.running(supervisor_pid):
                with contextlib.suppress(ProcessLookupError):
                    if (name := processes.comm(pid)) in NAMES:
                        found[name] = pid
        return cls(list(found.values()))

    def alive(self) -> bool:
        """Say whether all of them are there: nobody has let the application go on."""
        ended = any(_ended(pidfd, 0) for pidfd in self._pidfds)
        return len(self._pidfds) == len(NAMES) and not ended

    def wait(self) -> bool:
        """Wait until all have ended; False when that takes too long. One that somebody has stopped is set going."""
        deadline = time.monotonic() + _PATIENCE
        for pidfd in self._pidfds:
            while not _ended(pidfd, _NUDGE):
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(pidfd, signal.SIGCONT)
                if time.monotonic() > deadline:
                    return False
        return True

    def close(self) -> None:
        """Give the descriptors back."""
        for pidfd in self._pidfds:
            os.close(pidfd)
        self._pidfds.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def dismiss(zygotes: Zygotes, supervisor_pid: int, patience: float) -> None:
    """Wait until nothing of criu's is at work in a container; end what still is after so many seconds.

    criu only, whatever it is busy with: those beside it then undo that.

    Raises:
        CriuError: something cannot be ended. Nobody knows what it will still do.
    """
    deadline = time.monotonic() + patience
    while working := zygotes.running(supervisor_pid):
        late = time.monotonic() - deadline
        if late > _PATIENCE:
            raise CriuError(
                f"criu (process {working[0]}) is at work in it for a daemon that has ended, and does not end itself; it "
                "probably waits for a disk: look at the kernel's log",
                hung=True,
            )
        for pid in working if late > 0 else ():
            with contextlib.suppress(ProcessLookupError):
                beside = processes.comm(pid) in NAMES
                os.kill(pid, signal.SIGCONT if beside else signal.SIGKILL)
        time.sleep(_POLL)


def _ended(pidfd: int, timeout: float) -> bool:
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(1000 * timeout))
