"""Freezing an application that cannot be checkpointed, and thawing it when it is wanted. Blocking.

For `on-failure: freeze`. It saves CPU, not memory. The application's sockets are still there, so the kernel goes on
answering keepalives, acknowledging and sending for it; what would bring it something waits, as for one asleep. Only its
own processes stand still, in a cgroup of their own: the supervisor, execs and the deletion of the pod go on.
"""

import logging

from checkpointer import doors, errors, processes
from checkpointer.clock import Clock
from checkpointer.container import Container
from checkpointer.engine import Engine
from checkpointer.supervisor import Signal, State
from checkpointer.traffic import Traffic
from redirector import sockets
from redirector.errors import RedirectorError
from redirector.hold import Hold

log = logging.getLogger(__name__)

PATIENCE = 0.5
"""Seconds that the housekeeping after a thaw gives way to wakes."""


def freeze(container: Container, engine: Engine) -> None:
    """Freeze the application; afterwards `container.hold` is set and the supervisor is frozen.

    Raises:
        doors.CalledOff: The application is wanted.
        errors.Refused: No packet could wake it.
        errors.CheckpointerError: It could not be frozen, and runs on.
    """
    clock = Clock()
    application = doors.approach(container, Signal.FREEZE)
    cell = container.cell
    try:
        cell.fill(lambda: processes.tree(application))
        clock.phase("gather")
        with doors.closed(container, engine) as hold:
            hold.syns(container.ports)
            doors.drain(container, application)
            _hold(container, hold, application)
            clock.phase("hold")
            _stop(container, hold, application)
            clock.phase("freeze")
    except BaseException:
        dissolve(container)
        raise
    container.times.sleep = clock.phases()
    container.times.sleep.pop("total")


def _hold(container: Container, hold: Hold, application: int) -> None:
    own = processes.socket_inodes(processes.tree(application))
    connections = sockets.connections(sockets.table(application), own)
    hold.only(container.ports, connections, container.unheeded, live=True)


def _stop(container: Container, hold: Hold, application: int) -> None:
    """Freeze, then look once more whether anybody waits; then it has not been missed."""
    supervisor, cell = container.supervisor, container.cell
    supervisor.tell(Signal.FREEZE, State.FROZEN)
    try:
        cell.freeze()
        cell.fill(
            lambda: processes.tree(application)
        )  # who was forked meanwhile freezes on its way in
        _hold(container, hold, application)  # with connections that were made meanwhile
        own = processes.socket_inodes(processes.tree(application))
        table = sockets.table(application, talks=True)
        doors.last_look(container, Traffic(container, table, own))
        if wake := hold.receive():
            raise doors.CalledOff(wake.kind)
    except BaseException:
        try:
            cell.thaw()
        finally:
            supervisor.tell(Signal.RESUME, State.RUN)  # `dissolve` tries to thaw it once more
        raise


def thaw(container: Container, engine: Engine) -> None:
    """Let the application go on, and its packets in. The hold is off, but the caller's to close.

    Raises:
        errors.CheckpointerError: It could not be thawed.
    """
    clock = Clock()
    with engine.rush:
        container.cell.thaw()
        clock.phase("thaw")
        if container.hold is not None:
            try:
                container.hold.replay()
            except (OSError, RedirectorError) as error:
                log.warning("replay.failed", exc_info=error)
        clock.phase("replay")
        container.supervisor.tell(Signal.RESUME, State.RUN)
        clock.phase("supervisor")
        engine.execs.release(container.record.id)
    container.times.wake = clock.phases()
    container.times.wake.pop("total")
    engine.rush.give_way(PATIENCE)
    dissolve(container)


def dissolve(container: Container) -> None:
    """Let the application go back to its container's cgroup, if it has one of its own."""
    try:
        container.cell.dissolve()
    except ProcessLookupError:
        return  # the container has ended, and its cgroups with it
    except errors.CheckpointerError as error:
        # Nothing depends on it: it is thawed, and goes with the container.
        log.warning("cell.left", extra={"reason": error.reason})
