"""What a container's traffic was, from the datapath's clocks and the kernel's own tables."""

import time
from collections.abc import Container as Contains
from collections.abc import Iterable

from checkpointer.container import Container
from checkpointer.idle import Seen
from redirector import sockets
from redirector.endpoints import Activity, Port
from redirector.sockets import Socket

CLOCK = 1e9
"""The datapath's times are nanoseconds."""


def seen(container: Container, table: list[Socket], inodes: Contains[int]) -> list[Seen]:
    """Traffic by port, its own outbound connections included, and by each connection that it serves.

    A port alone does not tell that one of two clients still waits for its answer; a connection alone, whose clock
    ticks every few milliseconds, does not tell a question from the answer right before it.

    Args:
        container: Whose `ports` are known.
        table: Of its network namespace, with talks.
        inodes: Of its sockets.
    """
    ports = [
        Seen(
            times.last_in / CLOCK,
            times.last_out / CLOCK,
            answers=port.proto == "tcp" and port in container.heeded,
        )
        for port, times in _activity(container, table, inodes).items()
    ]
    return ports + list(_talks(container, table, inodes, time.monotonic()))


def _talks(
    container: Container, table: list[Socket], inodes: Contains[int], now: float
) -> Iterable[Seen]:
    heeded = container.heeded
    for found in table:
        talk = found.talk
        served = Port(found.proto, found.local.port) in heeded
        if talk is not None and served and found.inode in inodes:
            yield Seen(
                now - talk.last_in if talk.last_in is not None else 0.0,
                now - talk.last_out if talk.last_out is not None else 0.0,
            )


def came_after(
    container: Container, table: list[Socket], inodes: Contains[int], moment: float
) -> Port | None:
    """A port to which payload came after a moment (monotonic seconds), None if there is none.

    What goes out does not count: while everything is held, ACKs are too, and the kernel sends the last answer again.
    """
    for port, times in _activity(container, table, inodes).items():
        if times.last_in / CLOCK > moment:
            return port
    return None


def _activity(
    container: Container, table: list[Socket], inodes: Contains[int]
) -> dict[Port, Activity]:
    outbound = {Port("tcp", c.local_port) for c in sockets.connections(table, inodes)}
    return container.pod.activity(container.heeded | outbound)
