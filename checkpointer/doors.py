"""The doors of a container that is about to rest: execs and packets wait at them from before it stops. Blocking.

Whatever puts an application to rest does it behind closed doors; if that fails they are opened, and what waited goes in.
"""

import contextlib
import time
from collections.abc import Iterator

from checkpointer import errors, processes, vouching
from checkpointer.container import Container
from checkpointer.engine import Engine
from checkpointer.kinds import Kind
from checkpointer.supervisor import Signal
from checkpointer.traffic import Traffic, crowded, listening
from redirector import sockets
from redirector.hold import Hold

QUIET = 2.0
"""Seconds to wait for handshakes and accept queues to drain once SYNs are held. A server that does not accept for that
long is busy, and a client of TCP_DEFER_ACCEPT that sends nothing keeps its half-open connection for longer: the sleep
is called off and tried again."""

LOOK = 0.002
"""Seconds between two looks at the queues."""


class CalledOff(errors.Refused):
    """The sleep was stopped before its commit because the application is wanted; nothing is wrong."""

    def __init__(self, cause: str) -> None:
        super().__init__(cause)
        self.cause = cause


def application(container: Container) -> int:
    """The application's pid.

    Raises:
        errors.Refused: There is none.
    """
    found = container.supervisor.application()
    if found is None:
        raise errors.Refused("the application is not running", kind=Kind.NOT_RUNNING)
    return found


def survey(container: Container, application: int) -> None:
    """See on which ports the application listens.

    Raises:
        errors.Refused: No packet could wake it, or there are too many ports to hold.
    """
    own = processes.socket_inodes(processes.tree(application))
    table = sockets.table(application)
    container.ports, asking = listening(container, table, own)
    if why := container.record.policy.unreachable(container.ports, asking):
        raise errors.Refused(why, kind=Kind.NO_PORT)
    if why := crowded(container.ports, sockets.others(table, own).ports):
        raise errors.Refused(why, kind=Kind.PORTS)


def approach(container: Container, order: Signal) -> int:
    """Return the application's pid, where its supervisor takes the order that is to bring it to rest.

    Raises:
        CalledOff: The application is wanted.
        errors.Refused: There is none, or no packet could wake it.
        errors.SupervisorError: The supervisor has ended, or does not know the order.
    """
    check(container)
    found = application(container)
    container.supervisor.need(order)
    survey(container, found)
    return found


@contextlib.contextmanager
def closed(container: Container, engine: Engine) -> Iterator[Hold]:
    """Hold execs, and be ready to hold packets; they stay so if nothing is raised."""
    done = False
    if not container.record.policy.wake_on_stop:
        container.supervisor.hurry()  # now, because a stop may come when no daemon is there to be asked
    try:
        engine.execs.hold(container.record.id, container.record.pid)
        container.hold = container.pod.hold(container.record.id, container.record.pid)
        vouching.tell(container, anew=True)
        yield container.hold
        done = True
    finally:
        if not done:
            opened(container, engine)


def opened(container: Container, engine: Engine) -> None:
    """Back to awake: first the packets, then whoever waits in an exec."""
    hold, container.hold = container.hold, None
    try:
        if hold is not None:
            try:
                hold.replay()
            finally:
                hold.close()  # else what is in the maps would go on holding
    finally:
        engine.execs.release(container.record.id)


def drain(container: Container, application: int) -> None:
    """Wait until no connection is half-open or unaccepted: criu would lose it, and its client would see a reset.

    Raises:
        CalledOff: The application is wanted.
    """
    deadline = time.monotonic() + QUIET
    while sockets.pending(sockets.table(application), container.ports):
        check(container)
        if time.monotonic() > deadline:
            raise CalledOff("tcp-connect")
        time.sleep(LOOK)


def last_look(container: Container, seen: Traffic) -> None:
    """With the tree at rest and every packet held: does anybody wait for it?

    The look has to have talks if the kubelet has connections to it.

    Raises:
        CalledOff: Somebody does.
    """
    check(container)
    if sockets.pending(seen.table, container.ports):
        raise CalledOff("tcp-connect")
    if sockets.unread(seen.table, seen.inodes):
        raise CalledOff("udp")
    # Whatever came in before everything was held is being worked on, and nobody would wake it to go on.
    if port := seen.came_after(container.quiet):
        raise CalledOff("udp" if port.proto == "udp" else "tcp-data")
    if seen.pinged_after(container.quiet):
        raise CalledOff("tcp-ping")
    if container.record.policy.connections == "wait" and seen.inbound():
        raise CalledOff("tcp-connect")
    # No traffic, but a probe fails if its answer waits for somebody else to wake the application; one that has not asked
    # yet is about to.
    if any(one.open_since or not one.last for one in seen.kubelet()):
        raise CalledOff("probe")


def check(container: Container) -> None:
    """Raise CalledOff if somebody wants the application."""
    if container.called_off.is_set():
        raise CalledOff(container.off_cause)
