"""Asking a zygote for a criu process: which descriptors it gets, where it lives, when it has ended.

A request is one connection with one message, a letter and a descriptor for each thing handed over; the protocol is
described in supervisor/criu-zygote.c.
"""

from __future__ import annotations

import contextlib
import dataclasses
import enum
import errno
import os
import select
import signal
import socket
import struct
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Self

from checkpointer import cgroups, kinds
from checkpointer.errors import ZygoteError

_NAMESPACES = ("cgroup", "ipc", "uts", "net", "pid")  # entered in this order, mnt last
_REPLY_SECONDS = 10.0  # a fork and some setns; a busy node needs patience
_REPLY = struct.Struct("<Biii")  # step that failed, errno, pid, guardian's pid


class Kind(enum.Enum):
    """What a zygote's children do."""

    SWRK = "swrk"  # one dump or restore
    LAZY = "lazy"  # one page daemon


@dataclasses.dataclass(slots=True)
class Worker:
    """A criu process; close it when done with it. Closing does not end the process.

    Attributes:
        channel: Its rpc socket, None for a page daemon.
        pid: Host pid.
        pidfd: Readable when it has exited, which is later than its last answer.
        guardian: Connection to the process that watches a page daemon.
        guardian_pid: That process, 0 if there is none.
    """

    channel: socket.socket | None
    pid: int
    pidfd: int
    guardian: socket.socket | None = None
    guardian_pid: int = 0

    def wait(self, timeout: float) -> bool:
        """Wait for its end; False when the time is up."""
        poll = select.poll()
        poll.register(self.pidfd, select.POLLIN)
        return bool(poll.poll(max(timeout, 0) * 1000))

    def kill(self) -> None:
        """End it at once."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)

    def close(self) -> None:
        """Give the descriptors back."""
        for held in (self.channel, self.guardian):
            if held is not None:
                held.close()
        os.close(self.pidfd)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@dataclasses.dataclass(frozen=True, slots=True)
class Zygote:
    """One running fork server."""

    kind: Kind
    path: Path  # of its socket
    pid: int

    def worker(
        self,
        image: int,
        *,
        container: int | None = None,
        ipc: bool = True,
        groups: cgroups.Cgroups | None = None,
        inherited: Sequence[int] = (),
        mount_namespace: int | None = None,
        undo: bool = False,
        forks: bool = False,
        meanwhile: Callable[[], None] = lambda: None,
    ) -> Worker:
        """Start a criu.

        Args:
            image: Descriptor of the image directory.
            container: Pid of the supervisor whose namespaces it joins.
            ipc: Whether the ipc namespace is one of them.
            groups: Cgroups whose memory controller it joins first.
            inherited: Descriptors for a restored application.
            undo: Whether another process traces for it and puts its tracees right if it is killed: for dumps.
            forks: The same for the first process that it forks, which does the work of a pre-dump.
            mount_namespace: Pid of a process whose mount namespace alone is joined.
            meanwhile: Called while the zygote forks; what it raises ends the criu.

        Raises:
            ZygoteError: it could not be started; the reason says which step failed.
            ProcessLookupError: the container has gone.
        """
        with contextlib.ExitStack() as stack:
            items = [("d", image)]
            if undo or forks:
                items.append(("u" if undo else "f", image))
            if groups is not None:
                items += stack.enter_context(cgroups.joining(groups))
            if container is not None:
                kinds = [kind for kind in _NAMESPACES if ipc or kind != "ipc"]
                items += [("n", _opened(stack, f"/proc/{container}/ns/{kind}")) for kind in kinds]
            mounts = container or mount_namespace
            if mounts is not None:
                items.append(("m", _opened(stack, f"/proc/{mounts}/ns/mnt")))
            items += [("i", fd) for fd in inherited]
            connection, channel = self._ask(items)
        try:
            meanwhile()
            return self._reply(connection, channel)
        except BaseException:
            connection.close()
            if channel is not None:
                channel.close()
            raise

    def _ask(self, items: list[tuple[str, int]]) -> tuple[socket.socket, socket.socket | None]:
        """Send a request; return the connection for the answer and, for the worker, our end of its rpc socket."""
        with contextlib.ExitStack() as undo, contextlib.ExitStack() as stack, self._translated():
            channel = None
            if self.kind is Kind.SWRK:
                channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
                undo.callback(channel.close)
                stack.enter_context(theirs)
                items = [("r", theirs.fileno()), *items]
            connection = connect(self.path)
            undo.callback(connection.close)
            kinds, fds = "".join(kind for kind, _ in items), [fd for _, fd in items]
            socket.send_fds(connection, [kinds.encode()], fds)
            undo.pop_all()
            return connection, channel

    def _reply(self, connection: socket.socket, channel: socket.socket | None) -> Worker:
        with self._translated():
            connection.settimeout(_REPLY_SECONDS)
            data, fds, _, _ = socket.recv_fds(connection, 64, 1)
        if len(data) < _REPLY.size:
            raise ZygoteError(f"the {self.kind.value} zygote closed the connection")
        status, number, pid, guardian = _REPLY.unpack_from(data)
        if status or not fds:
            message = f"criu could not be started (step {status}: {os.strerror(number)})"
            # Only a limit on tasks makes a fork or clone3 fail so.
            few = number == errno.EAGAIN
            raise ZygoteError(message, kind=kinds.Kind.NO_ROOM_TASKS if few else None)
        os.set_inheritable(fds[0], False)
        if self.kind is Kind.SWRK:
            connection.close()
            return Worker(channel, pid, fds[0])
        return Worker(None, pid, fds[0], connection, guardian)

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            message = f"the {self.kind.value} zygote does not answer: {error}"
            raise ZygoteError(message) from error


def _opened(stack: contextlib.ExitStack, path: str) -> int:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise ProcessLookupError(error.errno, "the container has gone", path) from error
    stack.callback(os.close, fd)
    return fd


def connect(path: Path) -> socket.socket:
    """Connect to a zygote's socket."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        connection.connect(str(path))
    except BaseException:
        connection.close()
        raise
    return connection
