"""What tests do with the checkpoint engine, without a daemon."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
import time
from pathlib import Path
from typing import Any, Self

from node import criu_lab

from bpf import syscall
from checkpointer import dump, errors, lifecycle, processes, restore
from checkpointer.dump import Frozen
from checkpointer.images import Image, Store
from checkpointer.restored import Restored
from checkpointer.supervisor import State
from checkpointer.zygote import Zygotes

LAZY_MEBIBYTES = 192  # takes a page daemon longer than a test needs to kill it
_TCP_REPAIR = 19  # linux/tcp.h


def no_notes(_: Frozen) -> dict[str, Any]:
    """Let a dump go on."""
    return {}


def sleep(zygotes: Zygotes, app: criu_lab.Application, store: Store) -> Image:
    """Dump the application; return its image."""
    return dump.dump(zygotes, app.container.target, store, frozen=no_notes).image


def wake(zygotes: Zygotes, app: criu_lab.Application, image: Image, **options: Any) -> Restored:
    """Restore the application and settle it."""
    restored = restore.restore(zygotes, app.container.target, image, **options)
    restored.resume()
    restored.settle()
    return restored


def wake_as_often_as_an_actor(
    zygotes: Zygotes, app: criu_lab.Application, image: Image
) -> Restored:
    """Restore as lifecycle does: some failures pass."""
    for failures in range(1, lifecycle.MAX_WAKES):
        try:
            return wake(zygotes, app, image)
        except errors.RestoreError as error:
            if not error.retry:
                raise
            time.sleep(lifecycle.backoff(lifecycle.WAKE_BACKOFF, failures))
    return wake(zygotes, app, image)


def named(pid: int, name: str) -> bool:
    """Say whether a process that lives has this name."""
    try:
        return processes.alive(pid) and processes.comm(pid) == name
    except ProcessLookupError:
        return False


class Striker:
    """Sends a signal to a container's criu, or to a process beside it, some time after it has started."""

    def __init__(
        self,
        zygotes: Zygotes,
        pid: int,
        after: float,
        number: signal.Signals,
        victim: str = "criu",
        *,
        children: bool = False,
    ) -> None:
        self.struck: list[int] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(zygotes, pid, after, number))
        self._victim, self._children = victim, children

    def _run(self, zygotes: Zygotes, pid: int, after: float, number: signal.Signals) -> None:
        while not self._over.is_set():
            if any(named(one, self._victim) for one in zygotes.running(pid)):
                time.sleep(after)
                for one in self._victims(zygotes.running(pid)):
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(one, number)
                        self.struck.append(one)
                return

    def _victims(self, working: list[int]) -> list[int]:
        if self._children:
            working = [one for worker in working for one in processes.tree(worker)]
        return [one for one in working if named(one, self._victim)]

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()


def belongings(app: criu_lab.Application) -> dict[int, object]:
    """Return what criu adds to a process or changes of it while it dumps, for each of the application's, by vpid."""
    root = app.container.supervisor.application() or 0
    return {processes.vpid(pid): _belongings(pid) for pid in processes.tree(root)}


def _belongings(pid: int) -> object:
    links = {entry.name: str(entry.readlink()) for entry in Path(f"/proc/{pid}/fd").iterdir()}
    areas = [line.split() for line in Path(f"/proc/{pid}/maps").read_text().splitlines()]
    strange = [area for area in areas if area[1][0] != "r" or "CRIUMFD" in area[-1]]
    status = Path(f"/proc/{pid}/status").read_text().splitlines()
    umask = next(line for line in status if line.startswith("Umask"))
    return links, strange, umask, {fd: _options(pid, fd) for fd, _ in processes.sockets(pid)}


def _options(pid: int, fd: int) -> tuple[int, int, int]:
    pidfd = os.pidfd_open(pid)
    with socket.socket(fileno=syscall.pidfd_getfd(pidfd, fd)) as copy:
        os.close(pidfd)
        return (
            copy.getsockopt(socket.IPPROTO_TCP, _TCP_REPAIR),
            copy.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR),
            copy.getblocking(),
        )


def runs_on(app: criu_lab.Application, store: Store) -> None:
    """Check that a failed dump left the application, its signals and the store as they were."""
    assert app.container.supervisor.state() is State.RUN
    assert app.intact()
    assert store.all() == []
    root = app.container.supervisor.application()
    for pid in processes.tree(root or 0):
        for tid in processes.tasks(pid):
            status = Path(f"/proc/{tid}/status").read_text()
            assert "SigBlk:\t0000000000000000" in status
            assert "TracerPid:\t0" in status
