"""Putting one container to sleep: hold its doors, then its packets, then take the checkpoint. Blocking; on a worker.

The order is the design's: refuse? -> exec mark -> hold SYNs -> queues empty? -> hold all -> dump; inside criu's
post-dump, with the tree frozen, the queues are looked at once more and the held set is taken from the image. Whatever
goes wrong before the commit, the application runs on with its connections, and gets the packets held meanwhile.
"""

import contextlib
import logging
import time
from collections.abc import Iterator
from typing import Any

from checkpointer import (
    budget,
    descriptors,
    doors,
    dump,
    errors,
    images,
    parting,
    predump,
    processes,
    refusals,
    volumes,
    watches,
)
from checkpointer.container import Container
from checkpointer.engine import Engine
from checkpointer.kinds import Kind
from checkpointer.traffic import Traffic
from redirector import sockets
from redirector.hold import Hold

log = logging.getLogger(__name__)

_PRE_DUMP = "zeropod.ctrox.dev/pre-dump"


def run(container: Container, engine: Engine) -> None:
    """Take the checkpoint; afterwards `container.hold` and `container.image` are set and the application is gone.

    Of a pod's containers only one at a time: the second phase holds all of the pod's packets.

    Raises:
        doors.CalledOff: The application is wanted.
        errors.Refused: It cannot be checkpointed as it is.
        errors.DumpError: The checkpoint failed.
    """
    started = time.perf_counter()
    doors.check(container)
    refuse(container, engine)
    with _pre_dumped(container, engine) as parent:
        doors.check(container)
        with doors.closed(container, engine) as hold:
            result = _dump(container, engine, hold, started, parent)
    container.image = result.image


@contextlib.contextmanager
def _pre_dumped(container: Container, engine: Engine) -> Iterator[images.Staged | None]:
    """Let most of the memory be written while the application runs, where its owner wants that and it can be done."""
    container.hitch = ""
    if not container.record.policy.pre_dump:
        yield None
        return
    with engine.store.stage(container.record.id) as staged:
        container.hitch = _pre_dump(container, engine, staged)
        yield None if container.hitch else staged


def _pre_dump(container: Container, engine: Engine, staged: images.Staged) -> str:
    """Write what can be written; say why it was not, "" if it was."""
    try:
        if not engine.zygotes.tracks_memory():
            return (
                f"{_PRE_DUMP} changes nothing: this kernel cannot tell which memory changes (CONFIG_MEM_SOFT_DIRTY); "
                "all of it is written while the application is frozen"
            )
        predump.write(engine.zygotes, container.target, engine.store, staged)
    except errors.DumpError as error:
        if error.outcome is errors.Outcome.LOST:
            raise
        return f"{_PRE_DUMP}: the pre-dump failed: {error.reason}"
    except errors.ZygoteError as error:
        return f"{_PRE_DUMP}: the pre-dump could not begin: {error.reason}"
    return ""


def refuse(container: Container, engine: Engine) -> None:
    """See whether it could be checkpointed, before anything is touched.

    Raises:
        errors.Refused: It could not, as it is.
    """
    application = doors.application(container)
    tree = processes.tree(application)
    found = list(descriptors.read(tree, container.record.pid))
    if why := refusals.reason(found, descriptors.surroundings(application)):
        raise errors.Refused(why)
    _watches(container, found)
    _afford(container, engine, _estimate(tree), to_come=True)
    doors.survey(container, application)


def _estimate(tree: list[int]) -> int:
    """Bytes of an image of these processes.

    Each has its own copy of what they share since a fork, as criu saves it too; memory that was made to be shared is
    saved once, and the largest view of it is taken for all.
    """
    private, shared = 0, 0
    for pid in tree:
        with contextlib.suppress(ProcessLookupError):
            found = processes.memory(pid)
            private, shared = private + found.private, max(shared, found.shared)
    return private + shared


def _afford(container: Container, engine: Engine, image: int, *, to_come: bool) -> None:
    """Refuse an image that is too large, or that the disk has no room for."""
    chosen = engine.settings
    limits = budget.Budget(chosen.disk_reserve, chosen.inode_reserve, chosen.image_budget)
    limits.check(
        image,
        container.record.policy.max_image_size,
        budget.Disk.of(engine.store.root),
        stored=engine.store.usage() if limits.images else 0,
        to_come=to_come,
    )


def _watches(container: Container, tree: list[descriptors.Process]) -> None:
    container.watching = any(process.watches for process in tree)
    wanted = watches.wanted(tree, container.record.pid)
    container.watched = watches.find(container.record.pid, wanted, container.watched)
    if missing := wanted - container.watched.keys():
        raise errors.Refused(
            f"it watches {len(missing)} files by inotify of which no path was found: they were deleted, or its image has "
            "too many files; let it poll instead (DOTNET_USE_POLLING_FILE_WATCHER=1, CHOKIDAR_USEPOLLING=1)"
        )


def _dump(
    container: Container,
    engine: Engine,
    hold: Hold,
    started: float,
    parent: images.Staged | None,
) -> dump.DumpResult:
    application = container.supervisor.application() or 0
    if container.record.policy.connections == "close":
        parting.close(container, application, hold)
    hold.syns(container.ports)
    doors.drain(container, application)
    own = processes.socket_inodes(processes.tree(application))
    table = sockets.table(application)
    hold.everything(sockets.others(table, own))
    probed = bool(Traffic(container, table, own).kubelet())
    ready = time.perf_counter()

    raised: list[errors.Refused] = []

    def frozen(snapshot: dump.Frozen) -> dict[str, Any]:
        try:
            _last_look(container, application, own, snapshot.held.exclusive, probed=probed)
            volumes.settle(snapshot.path, application)
            if container.watching and (count := sum(map(descriptors.unread, snapshot.pids))):
                raise errors.Refused(refusals.unread(count))
            hold.only(
                snapshot.held.ports,
                snapshot.held.connections,
                container.unheeded,
                snapshot.held.streams,
            )
            if wake := hold.receive():
                raise doors.CalledOff(wake.kind)
            _afford(container, engine, images.size(snapshot.path), to_come=False)
        except errors.Refused as refused:
            raised.append(refused)
            raise
        return {"ports": sorted(container.ports)}

    try:
        result = dump.dump(
            engine.zygotes,
            container.target,
            engine.store,
            frozen=frozen,
            watched=container.watched.values(),
            parent=parent,
        )
    except errors.DumpError as error:
        if error.refused:
            raise raised[0] from error
        raise
    phases = {"hold": 1e3 * (ready - started), **result.phases}
    phases.pop("total", None)
    container.times.sleep = phases
    return result


def _last_look(
    container: Container,
    application: int,
    own: set[int],
    exclusive: frozenset[int],
    *,
    probed: bool,
) -> None:
    """With the tree frozen and every packet held: does anybody wait for it, and could it come back?

    Args:
        container: Frozen.
        application: Its application.
        own: Inodes of its sockets.
        exclusive: Ports that it has opened without SO_REUSEADDR.
        probed: Whether the kubelet had connections to it a moment ago. Only then the table says at once when connections
            spoke, which takes longer.
    """
    seen = Traffic(container, sockets.table(application, talks=probed), own)
    if not probed and seen.kubelet():
        seen = Traffic(container, sockets.table(application, talks=True), own)
    doors.last_look(container, seen)
    # bind(2) wants SO_REUSEADDR of both, and a connection in TIME_WAIT has it from its listener.
    if taken := sockets.lingering(seen.table) & exclusive:
        raise errors.Refused(
            f"port {min(taken)} was opened without SO_REUSEADDR and has connections that ended a moment ago (TIME_WAIT), "
            "beside which it could not be opened again; they are gone after a minute",
            kind=Kind.TIME_WAIT,
        )
