"""Hanging up on clients before a sleep, for pods whose policy is connections=close. Blocking.

The application's own sockets are shut down, as it would do it itself: a client gets a FIN behind the last byte that was
sent to it, the application reads the end of the connection and lets go of it, and the image has nothing of either.
"""

import contextlib
import socket
import time
from collections.abc import Container as Contains

from checkpointer import doors, processes, rescue
from checkpointer.container import Container
from checkpointer.traffic import Traffic
from redirector import sockets
from redirector.hold import Hold

GOODBYE = 1.0
"""Seconds for both sides to let go. What takes longer, a client that never closes its end or a worker that does not read,
goes into the image half closed."""

LOOK = 0.005
"""Seconds between two looks at who has."""


def close(container: Container, application: int, hold: Hold) -> None:
    """Close the connections of its clients on which nobody waits for an answer; others are kept.

    Every packet is held meanwhile: a request has come before, and then the sleep is called off, or it comes after, and
    then it is refused unread, as by any server that has just hung up. None is taken and never answered.

    Raises:
        doors.CalledOff: Something came in while this was begun.
    """
    own = processes.socket_inodes(processes.tree(application))
    if not _looked(container, application, own).silent():
        return
    hold.everything(sockets.others(sockets.table(application), own))
    seen = _looked(container, application, own)
    if port := seen.came_after(container.quiet):
        raise doors.CalledOff("udp" if port.proto == "udp" else "tcp-data")
    silent = seen.silent()
    _hang_up(application, silent)
    hold.replay()
    deadline = time.monotonic() + GOODBYE
    while _held(application, silent) and time.monotonic() < deadline:
        doors.check(container)
        time.sleep(LOOK)


def _looked(container: Container, application: int, own: Contains[int]) -> Traffic:
    return Traffic(container, sockets.table(application, talks=True), own)


def _hang_up(application: int, inodes: Contains[int]) -> None:
    for pid in processes.tree(application):
        with contextlib.suppress(ProcessLookupError):
            for inode, duplicate in rescue.tcp_sockets(pid):
                if inode in inodes:
                    with contextlib.suppress(OSError):  # its client was faster
                        duplicate.shutdown(socket.SHUT_RDWR)


def _held(application: int, inodes: Contains[int]) -> bool:
    """Whether the application still has one of these sockets."""
    return any(found.inode in inodes for found in sockets.table(application))
