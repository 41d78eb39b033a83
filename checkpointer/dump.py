"""Process tree to image: the application is killed only when its image is committed, and runs on after any failure.

criu asks "post-dump" when the image is complete and the tree still frozen. Answering yes is what kills; so the image
is committed before the answer, and every other outcome (no, an exception, our death) lets the application go on.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import logging
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from checkpointer import (
    cgroups,
    criu,
    held,
    images,
    lazy,
    manifest,
    processes,
    rescue,
    seal,
    trim,
    writeback,
)
from checkpointer.clock import Clock
from checkpointer.errors import (
    CheckpointerError,
    CriuError,
    DumpError,
    ImageError,
    Outcome,
    Refused,
    SupervisorError,
    kind_of,
)
from checkpointer.held import Held
from checkpointer.images import Image, Staged, Store
from checkpointer.kinds import Kind
from checkpointer.manifest import Manifest
from checkpointer.processes import Security, Tuning
from checkpointer.supervisor import Signal, State, Supervisor, Target
from checkpointer.tracers import Tracers
from checkpointer.worker import Worker
from checkpointer.zygote import Zygotes

_log = logging.getLogger(__name__)

_SECONDS = 60.0  # for a dump of little memory, on a busy node
_BYTES_PER_SECOND = 50 << 20  # and what a slow disk takes
_CRIU_END = 10.0  # seconds for a criu that was killed, or has answered
_DEATH = 10.0  # seconds for a killed tree to disappear
_POLL = 0.0005


@dataclasses.dataclass(frozen=True, slots=True)
class Frozen:
    """A tree at rest, and its image before the commit.

    Attributes:
        path: The image directory.
        held: Ports and connections that the image contains.
        pids: Host pids of the tree.
    """

    path: Path
    held: Held
    pids: tuple[int, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class DumpResult:
    """A dump that succeeded.

    Attributes:
        image: The committed image.
        phases: Milliseconds by phase; they add up to "total".
    """

    image: Image
    phases: dict[str, float]


Callback = Callable[[Frozen], dict[str, Any]]


def dump(
    zygotes: Zygotes,
    target: Target,
    store: Store,
    *,
    frozen: Callback,
    watched: Iterable[str] = (),
    parent: Staged | None = None,
    timeout: float | None = None,
) -> DumpResult:
    """Checkpoint and end the application of a container.

    Args:
        zygotes: Where a criu comes from.
        target: The container; its supervisor is in state run.
        store: Takes the image.
        frozen: Called with the tree at rest and the image complete; returns the notes for its manifest. It calls
            the dump off by raising Refused.
        watched: Paths of files that are watched by inotify and that criu cannot find by itself.
        parent: What a pre-dump of the same application has written; it becomes a part of the image.
        timeout: Seconds until criu is given up; by default long enough for the tree's memory.

    Raises:
        DumpError: the application runs on, unless `outcome` says that it was lost.
    """
    supervisor = Supervisor(target.supervisor_pid)
    application = supervisor.application()
    if supervisor.state() is not State.RUN or application is None:
        raise DumpError(
            f"there is no running application (supervisor: {supervisor.state().name})",
            kind=Kind.NOT_RUNNING,
        )
    try:
        image = store.load(target.container_id)
    except ImageError:
        image = None  # a damaged one, or another boot's: it is dropped below
    if image is not None and (drain := lazy.find(image)) is not None:
        drain.close()
        raise DumpError("pages of the last wake are still being loaded", kind=Kind.PAGES_COMING)
    store.drop(target.container_id)  # of an earlier sleep: the application has run on since
    with store.stage(target.container_id) as staged:
        request = functools.partial(criu.dump_request, watched=watched)
        if parent is not None:
            staged.take_in(parent, criu.PARENT)
            request = functools.partial(request, parent=True)
        return _Dump(zygotes, target, store, staged, application, frozen, request).run(timeout)


class _Dump:
    """One dump on its way."""

    def __init__(
        self,
        zygotes: Zygotes,
        target: Target,
        store: Store,
        staged: Staged,
        application: int,
        frozen: Callback,
        request: Callable[[int], Any],
    ) -> None:
        self._zygotes = zygotes
        self._target = target
        self._store = store
        self._staged = staged
        self._application = application
        self._vpid = processes.vpid(application)
        self._frozen = frozen
        self._request = request
        self._supervisor = Supervisor(target.supervisor_pid)
        self._ipc = joins_ipc(application, target.supervisor_pid)
        self._pids: tuple[int, ...] = ()
        self._tracers = Tracers([])
        self._failure: BaseException | None = None
        self._writeback = writeback.Meanwhile(staged.path)
        self._clock = Clock()

    def run(self, timeout: float | None) -> DumpResult:
        limit = timeout if timeout is not None else patience(self._application)
        self._arm()
        try:
            worker = self._zygotes.swrk.worker(
                self._staged.fd, container=self._target.supervisor_pid, ipc=self._ipc, undo=True
            )
        except (CheckpointerError, ProcessLookupError) as error:
            raise self._resumed(error) from error
        with worker, Tracers.of(self._zygotes, worker, self._target.supervisor_pid) as tracers:
            self._tracers = tracers
            try:
                self._converse(worker, time.monotonic() + limit)
                self._bury(worker)
            except (CheckpointerError, ProcessLookupError) as error:
                self._failed(worker, error)
        image = self._staged.image
        if image is None:
            raise DumpError("criu ended the application without asking", outcome=Outcome.LOST)
        self._lull()
        self._clock.phase("asleep")
        return DumpResult(image, self._clock.phases())

    def _arm(self) -> None:
        try:
            self._supervisor.tell(Signal.ARM, State.ARMED)
        except SupervisorError as error:
            raise DumpError(error.reason, outcome=Outcome.LOST) from error
        self._clock.phase("arm")

    def _lull(self) -> None:
        """Tell the supervisor that the image is committed.

        The application is gone: to call the sleep failed because the supervisor is slow would leave nobody awake.
        """
        for last in (False, False, True):
            try:
                self._supervisor.tell(Signal.ASLEEP, State.ASLEEP)
            except SupervisorError as error:
                if last or not self._supervisor.alive():
                    raise DumpError(error.reason, outcome=Outcome.LOST) from error
            else:
                return

    def _converse(self, worker: Worker, deadline: float) -> None:
        if worker.channel is None:
            raise CriuError("the worker has no channel", gone=True)
        session = criu.Session(worker.channel, worker.pidfd, deadline, self._renew)
        with self._writeback:
            session.call(self._request(self._vpid), self._asked)

    def _renew(self) -> None:
        """Keep the supervisor from going back to run: it would take criu's kill for the application's own end."""
        self._supervisor.tell(Signal.ARM, State.ARMED)

    def _asked(self, script: str) -> bool:
        """Answer a notification; post-dump is the one that decides."""
        if script != "post-dump":
            return True
        self._clock.phase("criu")
        try:
            self._commit()
        except Exception as error:  # noqa: BLE001 - whatever it is, the application must go on first
            self._failure = error
            return False
        self._clock.phase("commit")
        return True

    def _commit(self) -> None:
        self._writeback.end()
        self._pids = tuple(processes.tree(self._application))
        trim.trim(self._staged.path)
        found = held.read(self._staged.path)
        notes = self._frozen(Frozen(self._staged.path, found, self._pids))
        self._clock.phase("frozen")
        self._renew()
        self._staged.commit(self._manifest(found, notes))
        self._renew()  # with a slow disk the lease may be over
        if not self._tracers.alive():
            # The kernel has let the application go on, of which the image does not know.
            raise CriuError("the process that traces for criu was killed", gone=True)

    def _manifest(self, found: Held, notes: dict[str, Any]) -> Manifest:
        supervisor = self._target.supervisor_pid
        security: dict[int, Security] = {}
        tuning: dict[int, Tuning] = {}
        usual = processes.tuning(supervisor)
        for pid in self._pids:
            security |= processes.security(pid)
            for tid in processes.tasks(pid):
                own = processes.tuning(tid)
                if own != usual:
                    tuning[processes.vpid(tid)] = own
        return Manifest(
            container_id=self._target.container_id,
            boot_id=manifest.boot_id(),
            kernel=manifest.kernel(),
            criu=self._zygotes.bundle.version,
            created=time.time(),
            app=self._vpid,
            processes=len(self._pids),
            tasks=len(security),
            pages_bytes=images.pages(self._staged.path),
            total_bytes=images.size(self._staged.path),
            held=found,
            ipc=self._ipc,
            pipes=processes.pipes(supervisor),
            cgroups=cgroups.of(supervisor).plain(),
            security=security,
            tuning=tuning,
            notes=notes,
            files=seal.seals(self._staged.path),
        )

    def _bury(self, worker: Worker) -> None:
        """Wait until criu has exited and nothing of the tree is left, not even a number that a wake will need."""
        if not worker.wait(_CRIU_END):
            raise CriuError("criu does not exit after its answer", hung=True)
        self._tracers.wait()  # what they trace stays a zombie
        deadline = time.monotonic() + _DEATH
        while self._remains():
            if time.monotonic() > deadline:
                raise CriuError("criu says that it is done, but the application lives")
            time.sleep(_POLL)
        self._clock.phase("kill")

    def _remains(self) -> bool:
        return (
            any(Path(f"/proc/{pid}").exists() for pid in self._pids)
            or self._supervisor.application(self._vpid) is not None
        )

    def _failed(self, worker: Worker, error: Exception) -> None:
        """Bring the application back, or, past the point of no return, finish what criu began."""
        if isinstance(error, CriuError) and error.hung:
            worker.kill()  # criu only, never the tree
        if not worker.wait(_CRIU_END):
            worker.kill()
            worker.wait(_CRIU_END)
        self._tracers.wait()
        if self._staged.image is not None and rescue.survey(self._pids) is not rescue.Survey.ALL:
            _log.warning(
                "dump.finish", extra={"id": self._target.container_id, "reason": str(error)}
            )
            self._finish()
            return
        if self._staged.image is not None:
            self._staged.revoke()
            images.remove(self._staged.path)
        raise self._resumed(self._failure or error) from error

    def _finish(self) -> None:
        """Kill what criu did not come to: the image is committed and part of the tree is dead already."""
        deadline = time.monotonic() + _DEATH
        rescue.sweep(self._target.supervisor_pid)
        while self._remains():
            rescue.kill(pid for pid in self._pids if processes.alive(pid))
            if time.monotonic() > deadline:
                raise DumpError(
                    "the rest of the application cannot be killed", outcome=Outcome.LOST
                )
            time.sleep(_POLL)

    def _resumed(self, error: BaseException) -> BaseException:
        """Let the application go on and return the error to raise."""
        log = self._staged.path / "dump.log"
        lines = criu.telling(log)
        reason = str(error) or repr(error)
        refused = isinstance(error, Refused)
        kept = None if refused else self._store.failures.keep_log(self._target.container_id, log)
        rescued = rescue.after_dump(self._application)
        try:
            if not rescued.healthy:
                raise SupervisorError(rescued.report)
            self._supervisor.tell(Signal.RESUME, State.RUN)
        except SupervisorError as worse:
            message = f"{reason}; and the application was lost: {worse.reason}"
            return DumpError(message, lines, kept, outcome=Outcome.LOST)
        _log.info(
            "dump.resumed", extra={"id": self._target.container_id, "report": rescued.report}
        )
        if isinstance(error, (CheckpointerError, OSError)):
            return DumpError(reason, lines, kept, kind=kind_of(error, lines), refused=refused)
        return error  # a mistake of the caller's callback


def joins_ipc(application: int, supervisor: int) -> bool:
    """Say whether criu may share the container's ipc namespace.

    It cannot dump attached SysV memory then. Left outside, it saves and remakes the namespace with all that is in it,
    and the restored tree has one of its own.
    """
    if processes.ns_inode(application, "ipc") != processes.ns_inode(supervisor, "ipc"):
        return False
    for pid in processes.tree(application):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            if "/SYSV" in Path(f"/proc/{pid}/maps").read_text(errors="replace"):
                return False
    return True


def patience(application: int) -> float:
    """Return the seconds after which a criu that writes the memory of a tree is given up."""
    return _SECONDS + _resident(application) / _BYTES_PER_SECOND


def _resident(application: int) -> int:
    """Return the bytes of memory that a tree has in RAM, shared ones more than once."""
    total = 0
    for pid in processes.tree(application):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            total += int(Path(f"/proc/{pid}/statm").read_text().split()[1]) << 12
    return total
