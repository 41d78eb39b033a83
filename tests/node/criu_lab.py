"""Containers for the checkpoint engine's own tests: a supervisor, an application, namespaces and cgroups, no runtime."""

from __future__ import annotations

import contextlib
import itertools
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from bpf import syscall
from checkpointer import supervisor
from dev import patience

INIT = Path("/opt/zeropod/container/init")
CGROUPS = Path("/sys/fs/cgroup")

# The root is a tmpfs with the node's programs: the container's own, so that who joins its mount namespace sees this.
# stdin is opened inside, as runc does it: criu refuses files of mounts that the container does not have.
_ASSEMBLE = """
set -e
root=$1 init=$2 lab=$3; shift 3
mount -t tmpfs -o mode=755 container "$root"
cd "$root"
mkdir usr proc dev tmp run etc lab old .zeropod
mount --rbind /usr usr
for link in bin sbin lib lib64; do ln -s usr/$link $link; done
mount --rbind /dev dev
mount -t tmpfs -o mode=1777 shm dev/shm
mount --bind "$lab" lab
cp "$init" .zeropod/init
mount -t proc proc proc
ip link set lo up
pivot_root . old
umount -l old
cd /
exec /.zeropod/init -- "$@" </dev/null
"""

# Answers each line with: what was sent, how many lines came on this connection, a digest of its memory. A child process
# does the same on the next port; both have a thread that computes and two that sleep.
APPLICATION = r"""
import hashlib, os, selectors, socket, sys, threading, time
port, mebibytes = int(sys.argv[1]), int(sys.argv[2])
memory = bytearray(os.urandom(1 << 20)) * mebibytes
if os.fork() == 0:
    port += 1

def compute():
    n = 0
    while True:
        n += 1
        if n % 50000 == 0:
            time.sleep(0.001)

def sleep():
    while True:
        time.sleep(0.01)

for work in (compute, sleep, sleep):
    threading.Thread(target=work, daemon=True).start()
listener = socket.create_server(("127.0.0.1", port), backlog=64)
listener.setblocking(False)
selector = selectors.DefaultSelector()
selector.register(listener, selectors.EVENT_READ)
lines = {}
while True:
    for key, _ in selector.select():
        if key.fileobj is listener:
            client, _ = listener.accept()
            selector.register(client, selectors.EVENT_READ)
            continue
        said = key.fileobj.recv(4096).strip()
        if not said:
            selector.unregister(key.fileobj)
            key.fileobj.close()
            continue
        lines[key.fileobj] = lines.get(key.fileobj, 0) + 1
        digest = hashlib.sha256(memory).hexdigest()
        key.fileobj.sendall(b"%s %d %s\n" % (said, lines[key.fileobj], digest.encode()))
"""

_numbers = itertools.count()
T = TypeVar("T")


def until(condition: Callable[[], object], seconds: float = 10) -> None:
    """Wait for a condition; fail when it does not come."""
    patience.until(condition, seconds, pause=0.005)


class Container:
    """A container whose application is `argv`."""

    def __init__(self, lab: Path, argv: list[str]) -> None:
        self.id = f"engine-{os.getpid()}-{next(_numbers)}"
        self.cgroups = list(self._make_cgroups())
        root = lab / self.id
        root.mkdir(parents=True)
        joins = "".join(f"echo $$ >{group}/cgroup.procs; " for group in self.cgroups)
        command = ["unshare", "-mnpuiC", "--propagation", "private", "--fork", "--kill-child"]
        command += ["sh", "-c", _ASSEMBLE, "sh", str(root), str(INIT), str(lab), *argv]
        self.process = subprocess.Popen(
            ["sh", "-c", f'{joins}exec "$@"', "sh", *command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        until(self._started)
        self.target = supervisor.Target(self.id, self._pid())
        self.supervisor = supervisor.Supervisor(self._pid())

    def _make_cgroups(self) -> Iterator[Path]:
        hierarchies = [CGROUPS] if (CGROUPS / "cgroup.controllers").exists() else CGROUPS.iterdir()
        for hierarchy in hierarchies:
            if not (hierarchy / "cgroup.procs").exists():
                continue
            group = hierarchy / self.id
            group.mkdir()
            for name in ("cpuset.cpus", "cpuset.mems"):
                if hierarchy.name == "cpuset":
                    (group / name).write_text((hierarchy / name).read_text())
            yield group

    def _pid(self) -> int:
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return int(children.read_text().split()[0])

    def _started(self) -> bool:
        with contextlib.suppress(OSError, IndexError):
            found = supervisor.Supervisor(self._pid())
            return found.state() is supervisor.State.RUN and found.application() is not None
        return False

    @property
    def pid(self) -> int:
        """The supervisor."""
        return self.target.supervisor_pid

    def inside(self, work: Callable[[], T]) -> T:
        """Call something in the container's network namespace."""
        results: list[T] = []

        def run() -> None:
            fd = os.open(f"/proc/{self.pid}/ns/net", os.O_RDONLY)
            syscall.setns(fd)
            os.close(fd)
            with contextlib.suppress(OSError):
                results.append(work())

        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
        if not results:
            raise ConnectionError("nothing answers in the container")
        return results[0]

    def kill(self) -> None:
        """End it and everything of it."""
        with contextlib.suppress(OSError, IndexError):
            os.kill(self._pid(), signal.SIGKILL)
        self.process.kill()
        self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()
        for group in self.cgroups:
            until(lambda group=group: _removed(group))


def _removed(group: Path) -> bool:
    try:
        group.rmdir()
    except OSError:
        return False
    return True


class Client:
    """A connection to the application that was open before whatever happens to it."""

    def __init__(self, container: Container, port: int) -> None:
        self._socket = container.inside(
            lambda: socket.create_connection(("127.0.0.1", port), patience.seconds(5))
        )
        self._lines = 0
        self._socket.settimeout(patience.seconds(10))

    def ask(self) -> str:
        """Send a line; return the digest of the application's memory. Fails if an earlier line got lost."""
        self._lines += 1
        self._socket.sendall(b"hello\n")
        answer = b""
        while not answer.endswith(b"\n"):
            piece = self._socket.recv(4096)
            if not piece:
                raise ConnectionError("the application closed the connection")
            answer += piece
        word, number, digest = answer.split()
        if (word, int(number)) != (b"hello", self._lines):
            raise AssertionError(f"line {self._lines} was answered by {answer!r}")
        return digest.decode()

    def silent(self, seconds: float) -> bool:
        """Send a line and say whether no answer comes."""
        self._lines += 1
        self._socket.sendall(b"hello\n")
        return not select.select([self._socket], [], [], seconds)[0]

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()


class Application:
    """The application above in a container, with connections to both of its processes."""

    def __init__(self, lab: Path, mebibytes: int = 4) -> None:
        (lab / "application.py").write_text(APPLICATION)
        python = os.path.realpath(sys.base_prefix + "/bin/python3")
        self.container = Container(lab, [python, "/lab/application.py", "7000", str(mebibytes)])
        self.clients: list[Client] = []
        try:
            until(self._connected)
            self.digests = [client.ask() for client in self.clients]
        except BaseException:
            self.container.kill()
            raise

    def _connected(self) -> bool:
        with contextlib.suppress(OSError):
            for port in (7000, 7001)[len(self.clients) :]:
                self.clients.append(Client(self.container, port))
        return len(self.clients) == 2

    def intact(self) -> bool:
        """Ask on the old connections: memory and every line must be there."""
        return [client.ask() for client in self.clients] == self.digests

    def close(self) -> None:
        """End it."""
        for client in self.clients:
            client.close()
        self.container.kill()
