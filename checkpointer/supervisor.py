"""The supervisor inside a container, seen from the host: its published state, its orders, its application.

It takes orders as real-time signals, believes them only from outside its pid namespace, and answers by changing its
process name. Two pending signals arrive in order of their number, not of sending: ASLEEP could overtake a RESUME
that was sent before it. Hence one order at a time.
"""

from __future__ import annotations

import contextlib
import dataclasses
import enum
import os
import re
import select
import signal
import time
from pathlib import Path

from checkpointer import processes
from checkpointer.errors import SupervisorError

CRIU = "criu"  # the process name of criu and all that it forks, until a restored task gets its own
LOADER = "ld.so"  # and their program: criu's bundle has its own loader
_DIRECTORY = "/.zeropod/"
_TAKES = re.compile(rb"zeropod-init takes (\d+)-(\d+)")  # in its program
_FIRST_TAKES = (59, 63)  # of those that did not say so yet
_POLL = 0.0002  # seconds between looks at the name; the answer takes about 50 microseconds
_PAUSE = 0.01  # the most, where an application has to end first


class State(enum.Enum):
    """What the supervisor shows as its process name."""

    RUN = "zeropod:run"
    ARMED = "zeropod:armed"  # a checkpoint is being taken: a death by SIGKILL is expected
    ASLEEP = "zeropod:asleep"  # the application lives in an image
    ENDING = "zeropod:ending"  # the application is being ended: whatever its death, it is expected
    OFF = "zeropod:off"  # it has ended so, and is started afresh when it is wanted
    FROZEN = "zeropod:frozen"  # the application is frozen in its cgroup
    NONE = ""  # no supervisor, or one that has not got that far


class Signal(enum.IntEnum):
    """Orders, by kernel signal number (glibc's SIGRTMIN hides the first two of the range)."""

    FREEZE = 57
    END = 58
    ARM = 59
    ASLEEP = 60
    RESUME = 61
    FAIL = 62
    START = 63
    HURRY = 64


@dataclasses.dataclass(frozen=True, slots=True)
class Target:
    """A managed container, as this half of the daemon knows it.

    Attributes:
        container_id: containerd's id; names the image.
        supervisor_pid: Host pid of the container's PID 1.
    """

    container_id: str
    supervisor_pid: int


def is_supervisor(pid: int) -> bool:
    """Say whether a process runs our program: nothing else proves that a container is managed."""
    try:
        return processes.exe(pid).startswith(_DIRECTORY)
    except (ProcessLookupError, PermissionError):
        return False


def orders(program: bytes) -> range:
    """Return which orders a supervisor's program takes, as it says itself."""
    found = _TAKES.search(program)
    first, last = (int(found[1]), int(found[2])) if found else _FIRST_TAKES
    return range(first, last + 1)


def is_criu(pid: int) -> bool:
    """Say whether a process below a supervisor is criu's: an application may have that name as well."""
    try:
        return processes.comm(pid) == CRIU and Path(processes.exe(pid)).name.startswith(LOADER)
    except ProcessLookupError:
        return True  # about to be reaped: nobody's application


class Supervisor:
    """One container's supervisor.

    Args:
        pid: On the host.
        restarts: Its application is started afresh at times, and never restored.
    """

    def __init__(self, pid: int, *, restarts: bool = False) -> None:
        self.pid = pid
        self._restarts = restarts

    def alive(self) -> bool:
        """Say whether it still runs."""
        return processes.alive(self.pid)

    def state(self) -> State:
        """Read the published state; NONE when it has gone."""
        try:
            return State(processes.comm(self.pid))
        except (ProcessLookupError, ValueError):
            return State.NONE

    def application(self, vpid: int = 0) -> int | None:
        """Return the living application's pid.

        Orphans of exec sessions become the supervisor's children as well; the application was its first fork, so
        it has the lowest number inside. One that is started afresh has any number, but is made when there are no
        others, and the kernel keeps children in the order they came. Left out is what a killed criu leaves: its
        helpers, half-restored tasks.

        Args:
            vpid: The application's number inside, where it may be away: else an orphan would be taken for it.
        """
        try:
            found = [pid for pid in processes.children(self.pid) if processes.alive(pid)]
            found = [pid for pid in found if not is_criu(pid)]
            if vpid:
                found = [pid for pid in found if processes.vpid(pid) == vpid]
            if self._restarts:
                return found[0] if found else None
            return min(found, key=processes.vpid, default=None)
        except ProcessLookupError:
            return None

    def takes(self, order: Signal) -> bool:
        """Say whether it knows an order: it is as old as its container, and what it does not know it gives to the application.

        Raises:
            SupervisorError: it has ended.
        """
        try:
            return order in orders(Path(f"/proc/{self.pid}/exe").read_bytes())
        except OSError as error:
            raise SupervisorError(f"the supervisor (pid {self.pid}) has ended") from error

    def hurry(self) -> None:
        """Have a stop end the container at once with 0 while the application is away; awake this changes nothing.

        Raises:
            SupervisorError: it has ended, or is of a version that cannot.
        """
        self.need(Signal.HURRY)
        self.tell(Signal.HURRY, self.state())

    def need(self, order: Signal) -> None:
        """Raise SupervisorError if it does not know an order, or has ended."""
        if not self.takes(order):
            raise SupervisorError(
                f"the container was started by a version of zeropod that does not know {order.name}; restart the pod"
            )

    def sweep(self) -> None:
        """Kill what is below it although there is no application: what exec sessions have left behind."""
        for child in processes.children(self.pid):
            for pid in processes.tree(child):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    def reaches(self, wanted: State, seconds: float) -> bool:
        """Wait for a state that comes by itself; False if it has not come in time, or the supervisor has ended."""
        deadline, pause = time.monotonic() + seconds, _POLL
        while (state := self.state()) is not wanted:
            if state is State.NONE or time.monotonic() > deadline:
                return False
            time.sleep(pause)
            pause = min(2 * pause, _PAUSE)
        return True

    def tell(self, order: Signal, until: State | None, timeout: float = 5.0) -> None:
        """Give an order and wait until it is obeyed.

        Args:
            order: What to do.
            until: The state that shows obedience; None: the end of the supervisor.
            timeout: Seconds; generous, since a CPU limit may stop it for a tenth of one.

        Raises:
            SupervisorError: it has ended, or does not obey in time.
        """
        deadline = time.monotonic() + timeout
        try:
            pidfd = os.pidfd_open(self.pid)
        except ProcessLookupError as error:
            raise SupervisorError(f"the supervisor (pid {self.pid}) has ended") from error
        try:
            # The pidfd names whoever has the pid now; a stranger would be killed by the signal.
            if self.state() is State.NONE:
                raise SupervisorError(f"pid {self.pid} is no supervisor any more")
            signal.pidfd_send_signal(pidfd, order)
            if until is None:
                self._wait_end(pidfd, timeout)
            else:
                self._wait_state(order, until, deadline)
        except ProcessLookupError as error:
            raise SupervisorError(f"the supervisor (pid {self.pid}) has ended") from error
        finally:
            os.close(pidfd)

    def _wait_end(self, pidfd: int, timeout: float) -> None:
        poll = select.poll()  # select(2) cannot take descriptors above 1023
        poll.register(pidfd, select.POLLIN)
        if not poll.poll(1000 * timeout):
            raise SupervisorError(f"the supervisor (pid {self.pid}) does not end")

    def _wait_state(self, order: Signal, until: State, deadline: float) -> None:
        while processes.comm(self.pid) != until.value:
            if processes.zombie(self.pid):
                raise SupervisorError(f"the supervisor (pid {self.pid}) ended on {order.name}")
            if time.monotonic() > deadline:
                state = self.state().name
                message = (
                    f"the supervisor (pid {self.pid}) does not obey {order.name}: it is {state}"
                )
                raise SupervisorError(message)
            time.sleep(_POLL)
