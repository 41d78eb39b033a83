"""Image to process tree, in the container's namespaces and cgroups, below its supervisor.

criu asks "pre-resume" when every task is in place, with its rights, and has not run yet. There the rights are
compared, missing memory is secured against a dying page daemon, and the image is marked as used. So whatever fails
before leaves an image that can be restored again, and nothing ever runs twice from one image.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import time
from collections.abc import Callable, Iterator

from checkpointer import cgroups, criu, pids, processes, rescue, stdio
from checkpointer.clock import Clock
from checkpointer.errors import (
    CheckpointerError,
    CriuError,
    RestoreError,
    SupervisorError,
    kind_of,
)
from checkpointer.images import Fence, Image
from checkpointer.kinds import Kind
from checkpointer.lazy import Drain, find
from checkpointer.processes import Security
from checkpointer.restored import Restored
from checkpointer.supervisor import Signal, State, Supervisor, Target
from checkpointer.worker import Worker
from checkpointer.zygote import Zygotes

_log = logging.getLogger(__name__)

_SECONDS = 30.0  # for little memory on a busy node; criu was seen to hang for ever
_BYTES_PER_SECOND = 50 << 20  # from a cold, slow disk
_CRIU_END = 10.0
_DEATH = 10.0
_ZOMBIES_DIE = (
    0.2  # a process that was a zombie is restored as one that ends by itself in a moment
)
_NUMBERS_FREE = 0.005
_POLL = 0.0002
_TOLD = 3  # differences named in a reason


def restore(
    zygotes: Zygotes,
    target: Target,
    image: Image,
    *,
    lazy: bool = False,
    admit: Callable[[], None] = lambda: None,
    running: Callable[[], None] = lambda: None,
    timeout: float | None = None,
) -> Restored:
    """Bring a container's application back; if an earlier try did, and failed afterwards, that is it.

    Args:
        zygotes: Where a criu comes from.
        target: The container; its supervisor is asleep, or armed, and has no child.
        image: Its image; not dropped here.
        lazy: Load memory behind the running application.
        admit: Called before anything is done but starting a criu; what it raises ends the try.
        running: Called once, as soon as the application runs; criu has some work of its own left by then.
        timeout: Seconds until it is given up; by default long enough for the image.

    Raises:
        RestoreError: nothing of the tree is left; `retry` says whether the image may be used again.
    """
    supervisor = Supervisor(target.supervisor_pid)
    application = supervisor.application(image.manifest.app)
    if application is not None and image.fence_state() is Fence.RELEASED:
        running()
        return Restored(target, image, application, {"total": 0.0}, find(image))
    if supervisor.state() not in {State.ASLEEP, State.ARMED}:
        raise RestoreError(
            f"the supervisor is not asleep but {supervisor.state().name}",
            kind=Kind.SUPERVISOR,
            retry=False,
        )
    if image.fence_state() is Fence.RELEASED:
        raise RestoreError(
            "the image was used: its application has run on since",
            kind=Kind.IMAGE_USED,
            retry=False,
        )
    if application is not None:
        raise RestoreError("the container has a process already", kind=Kind.PID_TAKEN)
    limit = (
        timeout
        if timeout is not None
        else _SECONDS + image.manifest.pages_bytes / _BYTES_PER_SECOND
    )
    deadline = time.monotonic() + limit
    if lazy:
        try:
            return _Restore(zygotes, target, image, deadline, admit, running).run(lazy=True)
        except RestoreError as error:
            if not error.retry or error.kind not in {Kind.PAGE_DAEMON, Kind.DISK_FULL}:
                raise
            # A page daemon needs files of its own, and memory; without one it takes longer, that is all.
            _log.warning("restore.eager", extra={"id": target.container_id, "reason": str(error)})
    return _Restore(zygotes, target, image, deadline, admit, running).run(lazy=False)


def again(
    zygotes: Zygotes,
    target: Target,
    image: Image,
    drain: Drain,
    *,
    running: Callable[[], None] = lambda: None,
) -> Restored:
    """Restore once more from an image whose lazy pages cannot come in any more, this time eagerly.

    The one legal second use of an image: the application blocked before it could read a wrong byte, and what it did
    since its wake is lost. Its supervisor is told to expect the death.

    Raises:
        RestoreError: as `restore`.
        SupervisorError: the container has ended.
    """
    supervisor = Supervisor(target.supervisor_pid)
    if supervisor.state() is State.RUN:
        supervisor.tell(Signal.ARM, State.ARMED)
    # Before the kill: an image that was used, without its application, means to our successor that it has ended.
    image.reopen()
    kill_tree(target)
    drain.abandon()
    return restore(zygotes, target, image, running=running)


class _Restore:
    """One restore on its way."""

    def __init__(
        self,
        zygotes: Zygotes,
        target: Target,
        image: Image,
        deadline: float,
        admit: Callable[[], None] = lambda: None,
        running: Callable[[], None] = lambda: None,
    ) -> None:
        self._zygotes = zygotes
        self._target = target
        self._image = image
        self._deadline = deadline
        self._admit = admit
        self._begun: bool | None = (
            None  # False: not, and for a reason that is no failure of the image
        )
        self._running: Callable[[], None] | None = running
        self._supervisor = Supervisor(target.supervisor_pid)
        self._groups = cgroups.of(target.supervisor_pid)
        self._drain: Drain | None = None
        self._worker: Worker | None = None
        self._objection: Exception | None = None
        self._released = False
        self._hush = rescue.Hush()
        self._clock = Clock()

    def run(self, *, lazy: bool) -> Restored:
        supervisor = self._target.supervisor_pid
        try:
            with self._directory() as fd, stdio.handed_on(supervisor) as (keys, fds):
                self._worker = self._zygotes.swrk.worker(
                    fd,
                    container=supervisor,
                    ipc=self._image.manifest.ipc,
                    groups=self._groups,
                    inherited=fds,
                    meanwhile=functools.partial(self._prepare, fd, lazy=lazy),
                )
            with self._worker:
                return self._thaw(self._worker, keys)
        except (CheckpointerError, ProcessLookupError, OSError) as error:
            if self._begun is False:
                raise
            self._hush.close(silently=True)
            raise self._failed(error) from error
        finally:
            self._hush.close(silently=False)

    def _prepare(self, directory: int, *, lazy: bool) -> None:
        """Do what can be done while criu is being forked, which takes longer."""
        self._clock.phase("start")
        self._begun = False
        self._admit()
        self._clock.phase("room")
        self._image.begin()
        self._begun = True
        if lazy:
            self._drain = Drain.start(self._zygotes, self._image, directory)
        self._clock.phase("start")
        self._image.verify()
        self._clock.phase("verify")

    @contextlib.contextmanager
    def _directory(self) -> Iterator[int]:
        fd = os.open(self._image.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            yield fd
        finally:
            os.close(fd)

    def _thaw(self, worker: Worker, keys: list[str]) -> Restored:
        if self._drain is not None:
            self._drain.ready()
        self._clock.phase("start")
        try:
            self._converse(worker, keys)
        except (CriuError, CheckpointerError):
            self._end_criu(worker)
            if not self._complete():
                raise
            _log.warning(
                "restore.adopted",
                extra={"id": self._target.container_id, "reason": "criu ended early"},
            )
        self._let_in()
        if not worker.wait(_CRIU_END):
            worker.kill()  # it has done all that it was there for
            worker.wait(_CRIU_END)
        # What woke it may have been its last: then its status waits for RESUME.
        pid = self._supervisor.application(self._image.manifest.app) or 0
        self._clock.phase("exit")
        return Restored(self._target, self._image, pid, self._clock.phases(), self._drain)

    def _converse(self, worker: Worker, keys: list[str]) -> None:
        if worker.channel is None:
            raise CriuError("the worker has no channel", gone=True)
        request = criu.restore_request(keys, lazy=self._drain is not None)
        criu.Session(worker.channel, worker.pidfd, self._deadline).call(request, self._asked)
        if self._objection is not None:
            raise self._objection

    def _asked(self, script: str) -> bool:
        """Answer a notification.

        At post-restore all connections are there, still in repair mode; at pre-resume everything is, and nothing
        has run; at post-resume everything runs.
        """
        if script == "post-resume" and self._released:
            self._let_in()
        if script not in {"post-restore", "pre-resume"} or self._worker is None:
            return True
        if script == "post-restore":
            if self._image.manifest.held.connections:
                self._hush.take(processes.tree(self._worker.pid)[1:])
            return True
        tree = processes.tree(self._worker.pid)[1:]
        self._clock.phase("criu")
        try:
            self._inspect(tree)
            if self._drain is not None:
                self._drain.hold()
            self._image.release()
        except (CheckpointerError, OSError) as error:
            self._objection = error
            rescue.end(tree)  # criu would go on in spite of a no
            return False
        self._released = True
        self._clock.phase("check")
        return True

    def _let_in(self) -> None:
        """Tell the caller that the application runs, which may be before criu has come to its end."""
        running, self._running = self._running, None
        if running is not None:
            self._clock.phase("resume")
            running()
            self._clock.phase("replay")

    def _inspect(self, tree: list[int]) -> None:
        """Compare the restored tasks with what they were.

        Raises:
            RestoreError: one has other rights, or is outside of the container's limits.
        """
        deadline = time.monotonic() + _ZOMBIES_DIE
        while (wrong := self._differences(tree)) and time.monotonic() < deadline:
            time.sleep(_POLL)
        if wrong:
            more = f" and {len(wrong) - _TOLD} more" if len(wrong) > _TOLD else ""
            message = (
                f"restored tasks have other rights than before: {'; '.join(wrong[:_TOLD])}{more}"
            )
            raise RestoreError(message, kind=Kind.RIGHTS_CHANGED)
        memory = self._groups.controller("memory")
        for pid in tree:
            if cgroups.of(pid).controller("memory") != memory and processes.alive(pid):
                raise RestoreError(
                    f"restored process {pid} is outside of the container's memory cgroup",
                    kind=Kind.WRONG_CGROUP,
                )

    def _differences(self, tree: list[int]) -> list[str]:
        present: dict[int, Security] = {}
        for pid in tree:
            with contextlib.suppress(ProcessLookupError):  # it was a zombie, and is gone by now
                present |= processes.security(pid)
        return differences(self._image.manifest.security, present)

    def _complete(self) -> bool:
        """Say whether the application runs although criu gave no good answer: it was let go, and is all there."""
        if not self._released or self._objection is not None:
            return False
        pid = self._supervisor.application(self._image.manifest.app)
        if pid is None:
            return False
        found: set[int] = set()
        for member in processes.tree(pid):
            with contextlib.suppress(ProcessLookupError):
                found |= set(processes.security(member))
        return set(self._image.manifest.security) <= found

    def _end_criu(self, worker: Worker) -> None:
        """Make sure that criu is no more; before the release its tree has to go first."""
        if worker.wait(0):
            return
        if self._released and worker.wait(_CRIU_END):
            return
        if not self._released:
            rescue.end(processes.tree(worker.pid)[1:])
        if not worker.wait(1.0):
            worker.kill()
            worker.wait(_CRIU_END)

    def _failed(self, error: Exception) -> RestoreError:
        """Leave nothing of the tree behind; return the error to raise."""
        log = self._image.path / "restore.log"
        lines = criu.telling(log)
        reason = str(self._objection or error) or repr(error)
        kind = kind_of(self._objection or error, lines)
        if kind is Kind.CRIU_FAILED and pids.tells_taken((reason, *lines)):
            kind = Kind.PID_TAKEN
        elif kind is Kind.CRIU_FAILED and pids.tells_few((reason, *lines)):
            kind = Kind.NO_ROOM_TASKS
        wrote, ours = self._image.manifest.criu, self._zygotes.bundle.version
        if kind is Kind.CRIU_FAILED and wrote != ours:
            reason += f" (the image was written by criu {wrote}, and this is {ours})"
        try:
            kill_tree(self._target)
        except SupervisorError as worse:
            return RestoreError(f"{reason}; {worse.reason}", lines, log, kind=kind, retry=False)
        if self._drain is not None:
            self._drain.abandon()
        if self._released:
            return RestoreError(reason, lines, log, kind=kind, retry=False)
        self._image.withdraw()
        return RestoreError(reason, lines, log, kind=kind, retry=self._supervisor.alive())


def kill_tree(target: Target) -> None:
    """Kill everything below a supervisor at rest, until it has no child.

    A remnant would make the next restore fail: its pids are taken.

    Raises:
        SupervisorError: it is not at rest, or something cannot be killed.
    """
    supervisor = Supervisor(target.supervisor_pid)
    if supervisor.state() not in {State.ASLEEP, State.ARMED}:
        if not supervisor.alive():
            return
        raise SupervisorError(f"the supervisor is not at rest but {supervisor.state().name}")
    deadline = time.monotonic() + _DEATH
    killed = False
    while True:
        try:
            left = processes.children(target.supervisor_pid)
        except ProcessLookupError:
            return
        if not left:
            # Since Linux 6.15 a number is free only some time after its process is off the list of children.
            time.sleep(_NUMBERS_FREE if killed else 0)
            return
        killed = True
        if time.monotonic() > deadline:
            raise SupervisorError(f"process {left[0]} cannot be killed")
        for pid in left:
            rescue.end(processes.tree(pid))
        time.sleep(_POLL)


def differences(before: dict[int, Security], after: dict[int, Security]) -> list[str]:
    """Say in words which threads have come back otherwise than they were."""
    found = []
    for tid in sorted(before.keys() | after.keys()):
        if tid not in after:
            found.append(f"thread {tid} is missing")
        elif tid not in before:
            found.append(f"thread {tid} is new")
        else:
            found += [f"thread {tid}: {text}" for text in before[tid].differences(after[tid])]
    return found
