"""Putting one container to sleep: hold its doors, then its packets, then take the checkpoint. Blocking; on a worker.

The order is the design's: refuse? -> exec mark -> hold SYNs -> queues empty? -> hold all -> dump; inside criu's
post-dump, with the tree frozen, the queues are looked at once more and the held set is taken from the image. Whatever
goes wrong before the commit, the application runs on with its connections, and gets the packets held meanwhile.
"""

import contextlib
import logging
import time
from typing import Any

from checkpointer import budget, dump, errors, images, processes, refusals, traffic
from checkpointer.container import Container
from checkpointer.engine import Engine
from checkpointer.kinds import Kind
from redirector import sockets
from redirector.hold import Hold

log = logging.getLogger(__name__)

QUIET = 2.0
"""Seconds to wait for handshakes and accept queues to drain once SYNs are held. A server that does not accept for that
long is busy, and a client of TCP_DEFER_ACCEPT that sends nothing keeps its half-open connection for longer: the sleep
is called off and tried again."""

LOOK = 0.002
"""Seconds between two looks at the queues."""


class CalledOff(errors.Refused):
    """The sleep was stopped before its commit because the application is wanted; nothing is wrong."""

    def __init__(self, cause: str) -> None:
        super().__init__(cause)
        self.cause = cause


def run(container: Container, engine: Engine) -> None:
    """Take the checkpoint; afterwards `container.hold` and `container.image` are set and the application is gone.

    Of a pod's containers only one at a time: the second phase holds all of the pod's packets.

    Raises:
        CalledOff: The application is wanted.
        errors.Refused: It cannot be checkpointed as it is.
        errors.DumpError: The checkpoint failed.
    """
    started = time.perf_counter()
    _check(container)
    _refuse(container, engine)
    held = False
    if not container.record.policy.wake_on_stop:
        container.supervisor.hurry()  # now, because a stop may come when no daemon is there to be asked
    try:
        engine.execs.hold(container.record.id, container.record.pid)
        container.hold = container.pod.hold(container.record.id, container.record.pid)
        result = _dump(container, engine, container.hold, started)
        held = True
    finally:
        if not held:
            _let_go(container, engine)
    container.image = result.image


def _refuse(container: Container, engine: Engine) -> None:
    application = container.supervisor.application()
    if application is None:
        raise errors.Refused("the application is not running", kind=Kind.NOT_RUNNING)
    tree = processes.tree(application)
    if why := refusals.reason(refusals.read(tree)):
        raise errors.Refused(why)
    _afford(container, engine, _estimate(tree), to_come=True)
    container.ports = frozenset(
        sockets.listening(sockets.table(application), processes.socket_inodes(tree))
    )
    if why := container.record.policy.unreachable(container.ports):
        raise errors.Refused(why, kind=Kind.NO_PORT)


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


def _dump(container: Container, engine: Engine, hold: Hold, started: float) -> dump.DumpResult:
    application = container.supervisor.application() or 0
    hold.syns(container.ports)
    _drain(container, application)
    own = processes.socket_inodes(processes.tree(application))
    hold.everything(sockets.others(sockets.table(application), own))
    ready = time.perf_counter()

    raised: list[errors.Refused] = []

    def frozen(snapshot: dump.Frozen) -> dict[str, Any]:
        try:
            _last_look(container, sockets.table(application), own, snapshot.held.exclusive)
            hold.only(snapshot.held.ports, snapshot.held.connections, container.unheeded)
            if wake := hold.receive():
                raise CalledOff(wake.kind)
            _afford(container, engine, images.size(snapshot.path), to_come=False)
        except errors.Refused as refused:
            raised.append(refused)
            raise
        return {"ports": sorted(container.ports)}

    try:
        result = dump.dump(engine.zygotes, container.target, engine.store, frozen=frozen)
    except errors.DumpError as error:
        if error.refused:
            raise raised[0] from error
        raise
    phases = {"hold": 1e3 * (ready - started), **result.phases}
    phases.pop("total", None)
    container.times.sleep = phases
    return result


def _drain(container: Container, application: int) -> None:
    """Wait until no connection is half-open or unaccepted: criu would lose it, and its client would see a reset."""
    deadline = time.monotonic() + QUIET
    while sockets.pending(sockets.table(application), container.ports):
        _check(container)
        if time.monotonic() > deadline:
            raise CalledOff("tcp-connect")
        time.sleep(LOOK)


def _last_look(
    container: Container, table: list[sockets.Socket], own: set[int], exclusive: frozenset[int]
) -> None:
    """With the tree frozen and every packet held: does anybody wait for it, and could it come back?"""
    _check(container)
    if sockets.pending(table, container.ports):
        raise CalledOff("tcp-connect")
    if sockets.unread(table, own):
        raise CalledOff("udp")
    # Whatever came in before everything was held is being worked on, and nobody would wake it to go on.
    if port := traffic.came_after(container, table, own, container.quiet):
        raise CalledOff("udp" if port.proto == "udp" else "tcp-data")
    # bind(2) wants SO_REUSEADDR of both, and a connection in TIME_WAIT has it from its listener.
    if taken := sockets.lingering(table) & exclusive:
        raise errors.Refused(
            f"port {min(taken)} was opened without SO_REUSEADDR and has connections that ended a moment ago (TIME_WAIT), "
            "beside which it could not be opened again; they are gone after a minute",
            kind=Kind.TIME_WAIT,
        )


def _check(container: Container) -> None:
    if container.called_off.is_set():
        raise CalledOff(container.off_cause)


def _let_go(container: Container, engine: Engine) -> None:
    """Back to awake: first the packets, then whoever waits in an exec."""
    hold, container.hold = container.hold, None
    try:
        if hold is not None:
            hold.replay()
            hold.close()
    finally:
        engine.execs.release(container.record.id)
