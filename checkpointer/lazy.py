"""Restoring without waiting for memory: a page daemon serves faults and fills in the rest behind the application.

If the page daemon dies, the kernel hands out zero pages, unless somebody else has the userfaultfd open: then the
application blocks, reads nothing wrong, and can be killed and restored once more from the same image. That somebody is
the guardian, a process of the zygote's that outlives this daemon.
"""

from __future__ import annotations

import contextlib
import dataclasses
import enum
import json
import logging
import os
import select
import signal
import socket
import stat
import time
from pathlib import Path

from bpf import syscall
from checkpointer import processes
from checkpointer.errors import RestoreError
from checkpointer.images import Image
from checkpointer.kinds import Kind
from checkpointer.manifest import Manifest
from checkpointer.stall import Advice, Stall
from checkpointer.worker import Worker
from checkpointer.zygote import Zygotes

_log = logging.getLogger(__name__)

SOCKET = "lazy-pages.socket"  # where criu and its page daemon meet, in the image directory
_STATUS = "lazy.status"  # of the page daemon's end, told by the guardian
_NOTE = "drain.json"
# Measured, lazy against eager on a busy machine: 10 MB 22/22 ms, 34 MB 26/36, 65 MB 24/67, 128 MB 33/101.
_WORTH_BYTES = 24 << 20
_WORTH_SHARED = 256 << 20
_START_SECONDS = 5.0
_POLL = 0.0002
_LOOK = 0.02  # seconds between looks for userfaultfds of children that the application forked meanwhile
_STATUS_SECONDS = 2.0  # the guardian needs a moment after the page daemon's end
_UFFD = "anon_inode:[userfaultfd]"
_HOLD = b"h"
_MAX_FDS = 16  # per message to the guardian


class Drained(enum.Enum):
    """How a drain stands."""

    RUNNING = enum.auto()
    OK = enum.auto()  # all memory is in place
    FAILED = (
        enum.auto()
    )  # the page daemon died: the application blocks where it touches missing memory


def worth(manifest: Manifest) -> bool:
    """Say whether a lazy restore answers sooner than an eager one, and is worth it.

    Pages that processes share since a fork are shared no more after a lazy restore.
    """
    return manifest.pages_bytes >= (_WORTH_BYTES if manifest.processes == 1 else _WORTH_SHARED)


def wanted(choice: str, manifest: Manifest) -> bool:
    """Say whether to restore lazily: "true" and "false" are the owner's choice, "auto" is ours."""
    return worth(manifest) if choice == "auto" else choice == "true"


@dataclasses.dataclass(slots=True)
class Drain:
    """Memory still being loaded behind a restored application.

    Attributes:
        directory: The image directory; it must not be dropped before the end.
        pid: The page daemon.
        guardian_pid: The process that keeps the userfaultfds open.
    """

    directory: Path
    pid: int
    guardian_pid: int
    _started: int  # of the page daemon
    _guardian_started: int
    _guardian: socket.socket | None = None
    _held: set[int] = dataclasses.field(default_factory=set)

    @classmethod
    def start(cls, zygotes: Zygotes, image: Image, fd: int) -> Drain:
        """Start a page daemon on an image and wait until criu can meet it.

        Raises:
            ZygoteError: it could not be started.
            RestoreError: it ended at once.
            OSError: its files cannot be written.
        """
        for name in (SOCKET, _STATUS, _NOTE):
            (image.path / name).unlink(missing_ok=True)
        # In the end it has to tell that all pages are in, and the disk may be full by then.
        (image.path / _STATUS).touch(0o600)
        with zygotes.lazy.worker(fd) as worker:
            drain = cls._of(image.path, worker)
            worker.guardian = None  # the drain's from here on
        note = {name: getattr(drain, name) for name in _NOTED}
        try:
            (image.path / _NOTE).write_text(json.dumps(note))
        except OSError:
            drain.abandon()
            raise
        return drain

    @classmethod
    def _of(cls, directory: Path, worker: Worker) -> Drain:
        guardian = worker.guardian_pid
        try:
            started = processes.start_time(worker.pid), processes.start_time(guardian)
        except ProcessLookupError as error:
            _end(guardian)  # of a page daemon that failed it would wait for that
            raise RestoreError("the page daemon ended at once", kind=Kind.PAGE_DAEMON) from error
        return cls(directory, worker.pid, guardian, *started, worker.guardian)

    def ready(self) -> None:
        """Wait until the page daemon listens.

        Raises:
            RestoreError: it ended, or takes too long.
        """
        deadline = time.monotonic() + _START_SECONDS
        while not (self.directory / SOCKET).exists():
            if self.state() is not Drained.RUNNING or time.monotonic() > deadline:
                raise RestoreError("the page daemon did not start", kind=Kind.PAGE_DAEMON)
            time.sleep(_POLL)

    def hold(self) -> None:
        """Give the guardian duplicates of all userfaultfds that it does not have.

        Raises:
            RestoreError: the page daemon or the guardian is gone before its time.
        """
        try:
            self._hold()
        except OSError as error:
            # Little memory is in place before we look; a page daemon that ends has no descriptors before it is gone.
            deadline = time.monotonic() + _STATUS_SECONDS
            while (state := self.state()) is Drained.RUNNING and time.monotonic() < deadline:
                time.sleep(_POLL)
            if state is not Drained.OK:
                raise RestoreError("the page daemon ended early", kind=Kind.PAGE_DAEMON) from error

    def _hold(self) -> None:
        pidfd = os.pidfd_open(self.pid)
        copies: list[int] = []
        try:
            for fd in _userfaultfds(self.pid):
                if fd not in self._held:
                    copies.append(syscall.pidfd_getfd(pidfd, fd))
                    self._held.add(fd)
            for first in range(0, len(copies), _MAX_FDS):
                self._send(copies[first : first + _MAX_FDS])
        finally:
            os.close(pidfd)
            for copy in copies:
                os.close(copy)

    def _send(self, fds: list[int]) -> None:
        if self._guardian is None:
            raise RestoreError(
                "the guardian of the page daemon cannot be reached", kind=Kind.PAGE_DAEMON
            )
        socket.send_fds(self._guardian, [_HOLD * len(fds)], fds)
        if not self._guardian.recv(1):
            raise RestoreError("the guardian of the page daemon is gone", kind=Kind.PAGE_DAEMON)

    def state(self) -> Drained:
        """Say how it stands, without waiting."""
        if processes.alive(self.pid, self._started):
            return Drained.RUNNING
        deadline = time.monotonic() + _STATUS_SECONDS
        while (
            processes.alive(self.guardian_pid, self._guardian_started)
            and time.monotonic() < deadline
        ):
            if self._complete() or self._status():
                break
            time.sleep(_POLL)
        return Drained.OK if self._complete() else Drained.FAILED

    def _complete(self) -> bool:
        """Say whether the guardian has seen a good end: it takes the file's write permission away."""
        try:
            mode = (self.directory / _STATUS).stat().st_mode
        except FileNotFoundError:
            return False
        # The text alone is how guardians of the first version tell it.
        return not mode & stat.S_IWUSR or self._status().strip() == "0"

    def _status(self) -> str:
        try:
            return (self.directory / _STATUS).read_text()
        except FileNotFoundError:
            return ""

    def wait(self, timeout: float | None = None, *, stall: Stall | None = None) -> Drained:
        """Wait for the end, keeping up with userfaultfds that appear when the application forks.

        A page daemon that hangs is ended: the application is blocked, or will be, and can be restored once more.

        Args:
            timeout: Seconds; None waits for as long as it takes.
            stall: Judges whether the page daemon gets on.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        try:
            pidfd = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return self.state()
        try:
            poll = select.poll()  # select(2) cannot take descriptors above 1023
            poll.register(pidfd, select.POLLIN)
            stall = stall or Stall(time.monotonic())
            while processes.alive(self.pid, self._started):
                if poll.poll(1000 * _LOOK):
                    break
                self._keep_going(stall, pidfd)
                if self._guardian is not None:
                    with contextlib.suppress(RestoreError):
                        self.hold()
                if deadline is not None and time.monotonic() > deadline:
                    return Drained.RUNNING
        finally:
            os.close(pidfd)
        return self.state()

    def _keep_going(self, stall: Stall, pidfd: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            advice = stall.look(self.pid, time.monotonic())
            if advice is Advice.WAKE:
                signal.pidfd_send_signal(pidfd, signal.SIGCONT)
            elif advice is Advice.END:
                _log.error("drain.hung", extra={"pid": self.pid, "seconds": stall.patience})
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)

    def abandon(self) -> None:
        """End page daemon and guardian: only when the application is gone, else it would read zeros."""
        for pid, started in (
            (self.pid, self._started),
            (self.guardian_pid, self._guardian_started),
        ):
            if processes.alive(pid, started):
                _end(pid)
        self.close()
        for name in (SOCKET, _STATUS, _NOTE):
            (self.directory / name).unlink(missing_ok=True)

    def close(self) -> None:
        """Give up the connection to the guardian; nothing else changes."""
        if self._guardian is not None:
            self._guardian.close()
            self._guardian = None


def _end(pid: int) -> None:
    """Kill a process and its children: while criu looks at the kernel it has one that sleeps for ever (criu/kerndat.c)."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGSTOP)
        for member in reversed(processes.tree(pid)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(member, signal.SIGKILL)


_NOTED = ("pid", "guardian_pid", "_started", "_guardian_started")


def _userfaultfds(pid: int) -> list[int]:
    found = []
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            if str(entry.readlink()) == _UFFD:
                found.append(int(entry.name))
    return found


def find(image: Image) -> Drain | None:
    """Return the drain of an image that an earlier daemon started, finished or not; None if there was none."""
    try:
        note = json.loads((image.path / _NOTE).read_text())
        return Drain(image.path, **note)
    except (OSError, ValueError, TypeError):
        return None
