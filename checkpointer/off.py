"""Ending an application instead of checkpointing it, and starting it afresh when it is wanted. Blocking.

For `disable-checkpointing`: nothing is kept, the container stays Running. Its supervisor makes the new application as it
made the first. New connections wait from before the end until the new application listens; those that were open end as
the application ends them, so their last segments pass.
"""

import logging
import os
import signal
import time
from collections.abc import Callable, Collection

from checkpointer import cgroups, doors, errors, processes
from checkpointer.cell import Cell
from checkpointer.clock import Clock
from checkpointer.container import Container
from checkpointer.engine import Engine
from checkpointer.kinds import Kind
from checkpointer.supervisor import Signal, State
from checkpointer.traffic import Traffic
from redirector import sockets
from redirector.endpoints import Port
from redirector.errors import RedirectorError

log = logging.getLogger(__name__)

GRACE = 10.0
"""Seconds from SIGTERM to SIGKILL. A pod's own grace period is its owner's bound for the end of the pod; nobody waits
for this end, and new connections are held as long."""

LISTENS = 60.0
"""Seconds for a new application to listen on the ports for which somebody waits; after that the packets are let in and
the kernel answers for it."""

SIBLINGS = 2.0
"""Seconds, when it listens on those, for the other ports of the one before."""

_LOOKS = (0.001, 0.05)
"""Seconds between looks: first, and the most it doubles to."""


class Interrupted(errors.NoRoom):
    """The daemon goes down while a new application is starting; its successor goes on waiting for it."""


def end(container: Container, engine: Engine) -> None:
    """End the application; afterwards `container.hold` is set and the supervisor is off.

    Raises:
        doors.CalledOff: The application is wanted, and was not touched.
        errors.Refused: It cannot be ended as it is.
        errors.CheckpointerError: It did not end, and runs on as far as it has survived.
    """
    clock = Clock()
    application = doors.approach(container, Signal.END)
    cell = container.cell
    try:
        cell.fill(lambda: processes.tree(application))
        with doors.closed(container, engine) as hold:
            hold.syns(container.ports)
            doors.drain(container, application)
            hold.only(container.ports, (), container.unheeded)
            own = processes.socket_inodes(processes.tree(application))
            table = sockets.table(application, talks=True)
            doors.last_look(container, Traffic(container, table, own))
            if wake := hold.receive():
                raise doors.CalledOff(wake.kind)
            clock.phase("hold")
            container.freed = cgroups.charged(container.record.pid)
            container.supervisor.tell(Signal.END, State.ENDING)
            finish(container, application)
            clock.phase("end")
    finally:
        _dissolve(cell)
    container.times.sleep = clock.phases()
    container.times.sleep.pop("total")


def finish(container: Container, application: int | None) -> None:
    """Bring an end that was ordered to its end.

    Raises:
        errors.CheckpointerError: The application cannot be ended.
    """
    supervisor, cell = container.supervisor, container.cell
    try:
        if application is not None:
            _send(application, signal.SIGTERM)
            if not supervisor.reaches(State.OFF, GRACE):
                log.info("end.killed", extra={"container": container.record.id, "after": GRACE})
        # What it has forked ends with it, and what execs have left, as in any container whose first process ends.
        cell.kill()
        supervisor.sweep()
        if not supervisor.reaches(State.OFF, GRACE):
            raise errors.SupervisorError("the application's end was not noticed by the supervisor")
    except errors.CheckpointerError as error:
        if supervisor.state() is State.OFF:
            # Awake it would be a container without an application. What it has forked is ended before the next start.
            log.warning("end.left", extra={"reason": error.reason})
            return
        if supervisor.state() is State.ENDING:
            supervisor.tell(Signal.RESUME, State.RUN)
        raise


def listening(container: Container) -> set[Port]:
    """The ports on which a container's application listens now; none while it starts or ends."""
    application = container.supervisor.application()
    if application is None:
        return set()
    try:
        own = processes.socket_inodes(processes.tree(application))
        return sockets.listening(sockets.table(application), own)
    except OSError:
        return set()  # it ends


def start(
    container: Container,
    engine: Engine,
    *,
    look: Callable[[Container], Collection[Port]] = listening,
    now: Callable[[], float] = time.monotonic,
    pause: Callable[[float], object] = time.sleep,
) -> None:
    """Start the application afresh, and let in what waits for it when it listens. The hold is off, but the caller's to close.

    Args:
        container: Whose supervisor is off, or has just been told to start.
        engine: Shared by all.
        look: On which ports it listens.
        now: Seconds on a clock.
        pause: Lets so many of them pass.

    Raises:
        Interrupted: The daemon goes down.
        errors.SupervisorError: It could not be started.
    """
    clock = Clock()
    supervisor = container.supervisor
    if supervisor.state() is State.OFF:
        supervisor.sweep()
        supervisor.tell(Signal.START, State.RUN)
    clock.phase("start")
    missing = _wait(container, look, now, pause)
    container.unheard = missing if supervisor.alive() else frozenset()
    if container.unheard:
        container.ports -= container.unheard
        container.tally.wake_failures[Kind.START_SILENT] += 1
        ports = sorted(f"{port.proto}/{port.number}" for port in missing)
        log.warning("start.silent", extra={"ports": ports, "seconds": LISTENS})
    clock.phase("listen")
    if container.hold is not None:
        try:
            container.hold.replay()
        except (OSError, RedirectorError) as error:
            log.warning("replay.failed", exc_info=error)
    clock.phase("replay")
    engine.execs.release(container.record.id)
    container.times.wake = clock.phases()
    container.times.wake.pop("total")


def _wait(
    container: Container,
    look: Callable[[Container], Collection[Port]],
    now: Callable[[], float],
    pause: Callable[[float], object],
) -> frozenset[Port]:
    """Wait until the application listens where somebody waits for it; return where it does not, if it does not come to that."""
    begun, served_since, span = now(), 0.0, _LOOKS[0]
    missing = container.ports
    while container.supervisor.state() is State.RUN:
        if container.closing.is_set():
            raise Interrupted("the daemon goes down")
        looked = now()
        missing = container.ports.difference(look(container))
        if not missing:
            break
        awaited = container.hold.awaited() if container.hold is not None else frozenset[Port]()
        enough = missing != container.ports and not missing & awaited
        served_since = (served_since or looked) if enough else 0.0
        if enough and looked > served_since + SIBLINGS:
            return frozenset()
        if looked > begun + LISTENS:
            break
        pause(span)
        span = min(2 * span, _LOOKS[1])
    return missing


def _send(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        log.debug("end.gone", extra={"pid": pid})


def _dissolve(cell: Cell) -> None:
    try:
        cell.dissolve()
    except errors.CellError as error:
        log.warning("cell.left", extra={"reason": error.reason})
