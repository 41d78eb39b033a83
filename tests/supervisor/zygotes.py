"""A client of the zygote, and one of the criu behind it."""

from __future__ import annotations

import os
import select
import signal
import socket
import struct
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from pycriu import rpc_pb2 as rpc

from supervisor.containers import ARM, ASLEEP, RESUME, Container

SWRK = ("swrk", "3")
LAZY = ("lazy-pages", "-D", "/proc/self/fd/4", "-W", "/proc/self/fd/4", "-o", "lazy.log", "-v1")
REQUEST = 1  # the step of an answer that refuses a malformed request


@dataclass(frozen=True)
class Bundle:
    """A criu with its libraries, and the zygote to preload."""

    path: Path
    zygote: Path
    kdat: Path

    def command(self, *argv: str) -> list[str | Path]:
        """The command line of criu, linked with the bundle's libraries only."""
        linker = [self.path / "ld.so", "--inhibit-cache", "--library-path", self.path / "lib"]
        return [
            *linker,
            "--preload",
            self.zygote,
            self.path / "criu",
            "--no-default-config",
            *argv,
        ]

    def environment(self, **more: str) -> dict[str, str]:
        """What criu may see of the node."""
        return {"PATH": "/nonexistent", "CRIU_KDAT": str(self.kdat), **more}


@dataclass(frozen=True)
class Answer:
    """What the zygote said to a request."""

    step: int
    errno: int
    pid: int
    guardian: int
    pidfd: int
    connection: socket.socket


class Zygote:
    """A running zygote and the socket where it listens."""

    def __init__(
        self,
        bundle: Bundle,
        path: Path,
        argv: Sequence[str] = SWRK,
        prefix: Sequence[str] = (),
        stderr: int | None = None,
        **environment: str,
    ) -> None:
        """Starts it; it serves as soon as it has linked and tested itself."""
        self._path = str(path)
        self._connections: list[socket.socket] = []
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listening:
            listening.bind(self._path)
            listening.listen(64)
            fd = listening.fileno()
            environment = bundle.environment(CRIU_ZYGOTE_FD=str(fd), **environment)
            self.process = subprocess.Popen(
                [*prefix, *bundle.command(*argv)],
                env=environment,
                pass_fds=[fd],
                stderr=stderr,
                start_new_session=True,
            )

    def connect(self) -> socket.socket:
        """A connection that has said nothing yet."""
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._connections.append(connection)
        connection.settimeout(10)
        connection.connect(self._path)
        return connection

    def request(self, kinds: bytes, fds: Sequence[int]) -> Answer:
        """Sends one request and waits for the answer."""
        connection = self.connect()
        socket.send_fds(connection, [kinds], list(fds))
        data, received, _, _ = socket.recv_fds(connection, 64, 4)
        if not data:
            pytest.fail("the zygote closed the connection without an answer")
        return Answer(*struct.unpack("<Biii", data), *received or [-1], connection)

    def close(self) -> None:
        """Ends it."""
        self.process.kill()
        self.process.wait()
        for connection in self._connections:
            connection.close()


def ended(pidfd: int, seconds: float = 10) -> bool:
    """Waits until the process of a pidfd has ended."""
    return bool(select.select([pidfd], [], [], seconds)[0])


def call(channel: socket.socket, request: Any) -> Any:
    """One call of criu's rpc."""
    channel.send(request.SerializeToString())
    data = channel.recv(1 << 20)
    if not data:
        pytest.fail("criu ended without an answer")
    response = rpc.criu_resp()
    response.ParseFromString(data)
    return response


def options(request: Any, log: str) -> None:
    """Options that both directions share."""
    o = request.opts
    o.images_dir_fd = -1
    o.images_dir = "/proc/self/fd/4"
    o.log_file = log
    o.log_level = 2
    o.manage_cgroups_mode = rpc.IGNORE
    o.network_lock = rpc.SKIP
    o.tcp_established = True
    o.tcp_skip_in_flight = True
    o.file_locks = True
    o.ext_unix_sk = True


class Worker:
    """A criu inside a container, with its rpc socket."""

    def __init__(
        self, zygote: Zygote, one: Container, images: Path, inherited: Sequence[int] = ()
    ) -> None:
        """Requests it."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.settimeout(20)
        directory = os.open(images, os.O_RDONLY | os.O_DIRECTORY)
        spaces = [
            os.open(f"/proc/{one.pid}/ns/{n}", os.O_RDONLY)
            for n in ("cgroup", "ipc", "uts", "net", "pid", "mnt")
        ]
        kinds = b"rd" + b"n" * (len(spaces) - 1) + b"m" + b"i" * len(inherited)
        self.answer = zygote.request(kinds, [theirs.fileno(), directory, *spaces, *inherited])
        theirs.close()
        for fd in (directory, *spaces):
            os.close(fd)
        self.channel = ours

    def close(self) -> None:
        """Waits for criu's end."""
        self.channel.close()
        assert ended(self.answer.pidfd)
        os.close(self.answer.pidfd)


def send_to_sleep(zygote: Zygote, one: Container, images: Path) -> None:
    """Dumps the application and tells the supervisor."""
    app = one.children[0]
    status = Path(f"/proc/{app}/status").read_text()
    request = rpc.criu_req(type=rpc.DUMP)
    options(request, "dump.log")
    request.opts.pid = int(
        next(x for x in status.splitlines() if x.startswith("NSpid:")).split()[-1]
    )
    one.order(ARM, "armed")
    worker = Worker(zygote, one, images)
    response = call(worker.channel, request)
    assert response.success, (images / "dump.log").read_text()
    worker.close()
    one.order(ASLEEP, "asleep")


def wake(
    zygote: Zygote, one: Container, images: Path, *, resume: bool = True, lazily: bool = False
) -> None:
    """Restores the application, with the supervisor's pipes, and tells the supervisor."""
    request = rpc.criu_req(type=rpc.RESTORE)
    options(request, "restore.log")
    request.opts.lazy_pages = lazily
    pipes = []
    for number in (1, 2):
        name = os.readlink(f"/proc/{one.pid}/fd/{number}")
        request.opts.inherit_fd.add(key=name, fd=5 + len(pipes))
        pipes.append(os.open(f"/proc/{one.pid}/fd/{number}", os.O_WRONLY))
    worker = Worker(zygote, one, images, pipes)
    response = call(worker.channel, request)
    assert response.success, (images / "restore.log").read_text()
    worker.close()
    for fd in pipes:
        os.close(fd)
    if resume:
        one.order(RESUME, "run")


# Keeps a number in memory and a descriptor open, and tells both when asked.
COUNTER = """
    import os, signal, sys
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
    number, ballast = 0, os.urandom(3 << 20)
    kept = open("/tmp/kept", "w+")
    print("ready")
    while signal.sigwaitinfo([signal.SIGUSR1]):
        number += 1
        kept.write(f"{number} ")
        kept.flush()
        print(number, hash(ballast), os.pread(kept.fileno(), 100, 0).decode())
"""

STDIN_INSIDE = (
    "sh",
    "-c",
    'exec "$@" </dev/null',
    "sh",
)  # a file of the node's own /dev cannot be found inside


def ask(one: Container) -> tuple[int, ...]:
    """The counter's next answer: number, hash of its ballast, and the numbers in its file."""
    os.kill(one.children[0], signal.SIGUSR1)
    return tuple(int(x) for x in one.line().split())
