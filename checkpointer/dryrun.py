"""What a dry run looks at: whether a container could sleep, and what would wake it. Nothing of it is touched. Blocking.

A would-be sleep lasts until the next traffic or exec, as a real one would. Traffic is looked for once a second: payload
is seen however long ago it came, by the datapath's clocks; a connection without any is seen if it lasts that long. An
exec is seen when it happens, and goes on at once.
"""

import time

from checkpointer import cgroups, doors, processes, sleep
from checkpointer.container import Container
from checkpointer.doze import Doze
from checkpointer.engine import Engine
from checkpointer.traffic import Traffic
from redirector import sockets

LOOK = 1.0
"""Seconds between looks for what would wake it."""


def begin(container: Container, engine: Engine) -> None:
    """Begin a would-be sleep: `container.dozes` has it then.

    Raises:
        errors.Refused: It could not be put to sleep as it is.
        OSError: It has ended, or cannot be looked at.
    """
    if not container.record.policy.disable_checkpointing:
        sleep.refuse(container, engine)
    application = doors.application(container)
    engine.execs.hold(container.record.id, container.record.pid, wait=False)
    own = processes.socket_inodes(processes.tree(application))
    clients = Traffic(container, sockets.table(application), own).clients()
    memory = cgroups.charged(container.record.pid)
    container.dozes.begin(Doze(container.quiet, memory, clients))


def wake(container: Container) -> str | None:
    """What would have woken it since, None if it would sleep on.

    Raises:
        OSError: It has ended, or cannot be looked at.
    """
    application, doze = doors.application(container), container.dozes.now
    if doze is None:
        return None
    own = processes.socket_inodes(processes.tree(application))
    table = sockets.table(application, talks=True)
    seen = Traffic(container, table, own)
    came = seen.came_after(doze.since)
    if came is not None and came.proto == "udp":
        return "udp"
    if seen.clients() - doze.connections or sockets.pending(table, container.heeded):
        return "tcp-connect"
    if came is None:
        return None
    if came not in container.heeded:
        return "tcp-data"
    # Taken anew, since it may have come after the table was. If no connection from before has carried it, one that has
    # ended already did.
    table = sockets.table(application, talks=True)
    return "tcp-data" if _talked(table, own, doze) else "tcp-connect"


def _talked(table: list[sockets.Socket], own: set[int], doze: Doze) -> bool:
    silent = time.monotonic() - doze.since
    return any(
        found.talk is not None and found.talk.last_in is not None and found.talk.last_in < silent
        for found in table
        if found.inode in own and found.connection() in doze.connections
    )
