"""Most of the memory before the freeze: criu writes it while the application runs, the dump what has changed since.

It makes going to sleep longer in all. criu stops the application only to take hold of its pages, and the kernel notes
from there on which are written to; kernels can do that only if they were built for it (CONFIG_MEM_SOFT_DIRTY).
"""

from __future__ import annotations

import contextlib
import logging
import time

from checkpointer import criu, dump, processes, rescue, tracers
from checkpointer.errors import CheckpointerError, CriuError, DumpError, Outcome, kind_of
from checkpointer.images import Staged, Store
from checkpointer.kinds import Kind
from checkpointer.supervisor import Supervisor, Target
from checkpointer.zygote import Zygotes

_log = logging.getLogger(__name__)

_CRIU_END = 5.0  # seconds for a criu that has answered, or was killed


def write(
    zygotes: Zygotes, target: Target, store: Store, staged: Staged, *, timeout: float | None = None
) -> None:
    """Write the memory of a container's application, which runs on.

    Args:
        zygotes: Where a criu comes from.
        target: The container.
        store: Keeps the log of a failure.
        staged: Takes the memory.
        timeout: Seconds until criu is given up; by default long enough for the memory.

    Raises:
        DumpError: the application runs on, unless `outcome` says that it was lost.
    """
    application = Supervisor(target.supervisor_pid).application()
    if application is None:
        raise DumpError("there is no running application", kind=Kind.NOT_RUNNING)
    limit = timeout if timeout is not None else dump.patience(application)
    try:
        _converse(zygotes, target, staged, application, time.monotonic() + limit)
    except (CheckpointerError, ProcessLookupError) as error:
        raise _failed(error, target, store, staged, application) from error


def _converse(
    zygotes: Zygotes, target: Target, staged: Staged, application: int, deadline: float
) -> None:
    supervisor = target.supervisor_pid
    with zygotes.swrk.worker(
        staged.fd, container=supervisor, ipc=dump.joins_ipc(application, supervisor), forks=True
    ) as worker:
        try:
            if worker.channel is None:
                raise CriuError("the worker has no channel", gone=True)
            session = criu.Session(worker.channel, worker.pidfd, deadline)
            session.call(criu.pre_dump_request(processes.vpid(application)), _agree)
        finally:
            # The one that works is its child, and comes to the zygote when it has ended.
            if not worker.wait(_CRIU_END if time.monotonic() < deadline else 0):
                worker.kill()
                worker.wait(_CRIU_END)
            with contextlib.suppress(ProcessLookupError):
                tracers.dismiss(zygotes, supervisor, _CRIU_END)


def _agree(_: str) -> bool:
    return True


def _failed(
    error: Exception, target: Target, store: Store, staged: Staged, application: int
) -> DumpError:
    log = staged.path / "pre-dump.log"
    lines = criu.telling(log)
    kept = store.failures.keep_log(target.container_id, log)
    rescued = rescue.after_dump(application)
    if not rescued.healthy:
        reason = f"{error}; and the application was lost: {rescued.report}"
        return DumpError(reason, lines, kept, outcome=Outcome.LOST)
    kind = kind_of(error, lines)
    extra = {"id": target.container_id, "reason": str(error), "kind": kind}
    _log.info("predump.failed", extra=extra)
    return DumpError(str(error) or repr(error), lines, kept, kind=kind)
