"""After criu ended in the middle of a dump: what it leaves behind, and how the application gets going again.

The kernel lets a dead criu's tracees run. Its parasite, finding its socket closed, returns to where the application
was interrupted, by itself. TCP sockets stay in repair mode, in which they send nothing: we take them out of it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import enum
import logging
import os
import re
import signal
import socket
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from bpf import syscall
from checkpointer import processes
from checkpointer.supervisor import is_criu

_log = logging.getLogger(__name__)

_PARASITE = "/memfd:CRIUMFD"  # compel/src/lib/infect.c names the parasite's memory so
_TCP_REPAIR = 19  # linux/tcp.h
_TCP_REPAIR_ON = 1
_TCP_REPAIR_OFF_NO_WP = (
    -1
)  # without the window probe, which the redirector's hold would have to know
_PATIENCE = 5.0  # seconds for a parasite to leave; it takes microseconds once it is scheduled
_POLL = 0.002
_MAP = re.compile(r"^([0-9a-f]+)-([0-9a-f]+) ")


class Survey(enum.Enum):
    """How much of a process tree lives."""

    ALL = enum.auto()
    PART = enum.auto()
    NONE = enum.auto()


@dataclasses.dataclass(frozen=True, slots=True)
class Rescued:
    """What was found and done.

    Attributes:
        healthy: Every process of the tree runs its own code and its sockets work.
        report: In words.
    """

    healthy: bool
    report: str


def survey(pids: Iterable[int]) -> Survey:
    """Say how much of a tree lives; a process that is being killed counts as dead."""
    found = [processes.alive(pid) and not _doomed(pid) for pid in pids]
    if all(found) and found:
        return Survey.ALL
    return Survey.PART if any(found) else Survey.NONE


def _doomed(pid: int) -> bool:
    """Say whether a SIGKILL is pending for a process."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text(errors="replace").splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return True
    pending = [line.split()[1] for line in lines if line.startswith(("SigPnd:", "ShdPnd:"))]
    return any(int(mask, 16) & 1 << (signal.SIGKILL - 1) for mask in pending)


def after_dump(application: int) -> Rescued:
    """Bring a tree back that a dead criu let go of in mid-dump; criu must have ended before.

    Args:
        application: Root of the tree.
    """
    try:
        sweep(processes.parent(application))
    except ProcessLookupError:
        return Rescued(False, "the application has ended")
    pids = processes.tree(application)
    deadline = time.monotonic() + _PATIENCE
    while (captive := _captives(pids)) and time.monotonic() < deadline:
        time.sleep(_POLL)
    if captive:
        return Rescued(False, f"threads are left inside criu's parasite: {captive}")
    mended = 0
    broken: list[str] = []
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            good, bad = _mend_sockets(pid)
            mended, broken = mended + good, broken + bad
    if broken:
        return Rescued(False, f"sockets are left in repair mode: {broken}")
    if not processes.alive(application):
        return Rescued(False, "the application has ended")
    return Rescued(True, f"{len(pids)} processes run, {mended} sockets taken out of repair mode")


def sweep(supervisor_pid: int) -> None:
    """Kill what a killed criu has left below a supervisor: the children that it tries the kernel's features with."""
    for pid in processes.children(supervisor_pid):
        if is_criu(pid):
            kill([pid])


def _captives(pids: Iterable[int]) -> list[int]:
    """Return the threads that still execute criu's parasite, or are still being traced by a criu."""
    found = []
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, FileNotFoundError):
            areas = _parasites(pid)
            inside = [tid for tid in processes.tasks(pid) if _traced(tid) or _inside(tid, areas)]
            found += inside
    return found


def _parasites(pid: int) -> list[tuple[int, int]]:
    """Return the address ranges of parasites in a process; one that was left stays mapped."""
    found = []
    for line in Path(f"/proc/{pid}/maps").read_text(errors="replace").splitlines():
        match = _MAP.match(line)
        if match and _PARASITE in line:
            found.append((int(match[1], 16), int(match[2], 16)))
    return found


def _inside(tid: int, areas: list[tuple[int, int]]) -> bool:
    """Say whether a thread's program counter or stack is in one of the ranges, as far as can be seen."""
    if not areas:
        return False
    words = Path(f"/proc/{tid}/syscall").read_text().split()
    if words == ["running"]:
        return True  # cannot be seen: ask again
    where = [int(word, 16) for word in words[-2:]]
    return any(low <= address < high for address in where for low, high in areas)


def _traced(tid: int) -> bool:
    lines = Path(f"/proc/{tid}/status").read_text(errors="replace").splitlines()
    state = next(line.split()[1] for line in lines if line.startswith("State:"))
    return state == "t"


def _mend_sockets(pid: int) -> tuple[int, list[str]]:
    """Take a process's TCP sockets out of repair mode; return how many, and which did not let us."""
    mended, broken = 0, []
    for inode, duplicate in tcp_sockets(pid):
        try:
            if duplicate.getsockopt(socket.IPPROTO_TCP, _TCP_REPAIR):
                duplicate.setsockopt(socket.IPPROTO_TCP, _TCP_REPAIR, _TCP_REPAIR_OFF_NO_WP)
                mended += 1
        except OSError as error:
            broken.append(f"socket:[{inode}] of {pid}: {error}")
    return mended, broken


def tcp_sockets(pid: int) -> Iterator[tuple[int, socket.socket]]:
    """Iterate over a process's TCP sockets: inode, and a duplicate that is open until the next one."""
    pidfd = os.pidfd_open(pid)
    try:
        for fd, inode in processes.sockets(pid):
            try:
                copy = syscall.pidfd_getfd(pidfd, fd)
            except OSError:
                continue  # closed meanwhile
            with socket.socket(fileno=copy) as duplicate:
                inet = duplicate.family in {socket.AF_INET, socket.AF_INET6}
                if inet and duplicate.proto == socket.IPPROTO_TCP:
                    yield inode, duplicate
    finally:
        os.close(pidfd)


class Hush:
    """Connections of a tree that may have to be killed: closed in repair mode, they send no FIN.

    A half-restored tree has connections that its image has, too; their peers must not hear of its end. Duplicates,
    since its tasks may die by themselves: criu's breakpoints kill them when it is not there to catch them.
    """

    def __init__(self) -> None:
        # Numbers, not objects: socket.dup() sets a timeout, which would take O_NONBLOCK off the application's own file.
        self._held: list[int] = []

    def take(self, pids: Iterable[int]) -> None:
        """Duplicate the connections of these processes."""
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                self._held += [os.dup(duplicate.fileno()) for _, duplicate in tcp_sockets(pid)]

    def close(self, *, silently: bool) -> None:
        """Close the duplicates; `silently` also silences those that the processes still have."""
        for copy in self._held:
            with (
                socket.socket(fileno=copy) as duplicate,
                contextlib.suppress(OSError),
            ):  # a listening socket
                if silently:
                    duplicate.setsockopt(socket.IPPROTO_TCP, _TCP_REPAIR, _TCP_REPAIR_ON)
        self._held.clear()


def end(pids: Iterable[int]) -> None:
    """Kill processes of a restored tree without a word to their peers."""
    pids = list(pids)
    hush = Hush()
    hush.take(pids)
    hush.close(silently=True)
    kill(pids)


def kill(pids: Iterable[int]) -> None:
    """SIGKILL processes; those that have gone are fine."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
