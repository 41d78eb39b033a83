"""Waking one container: restore, let the packets in, let the waiting execs go. Blocking; on a worker.

Ordered for the first byte: what a client does not need (the rest of the v1 cgroup hierarchies, taking the TAP down,
removing the image) comes after the replay.
"""

import contextlib
import functools
import logging
import re
from collections.abc import Iterator

from checkpointer import cgroups, errors, images, lazy, pids, processes, restore, volumes
from checkpointer.clock import Clock
from checkpointer.container import Container
from checkpointer.engine import Engine
from checkpointer.kinds import Kind
from checkpointer.restored import Restored
from checkpointer.room import Need
from redirector import sockets
from redirector.endpoints import Connection
from redirector.errors import RedirectorError

log = logging.getLogger(__name__)

_MAKE_WRITABLE = (
    "let the disk of the images be written again: that one is used has to be noted there"
)
_MORE_TASKS = (
    "raise the limit on the pod's tasks (the kubelet's podPidsLimit), or end what else runs in it"
)
_MAKE_SPACE = "free space or inodes on the disk of the images, or of the container's own files"

_GONE = re.compile(r"Can't open file .* on restore: No such file")  # criu/files-reg.c: open_path

PATIENCE = 0.5
"""Seconds that a woken container's housekeeping gives way to other wakes. Until then it may use more CPU than its limit
on cgroup v1, where that hierarchy is joined last."""


def run(container: Container, engine: Engine) -> None:
    """Restore and replay; afterwards the application runs. The hold is off, but the caller's to close.

    Raises:
        errors.NoRoom: It does not fit now; nothing of it is left.
        errors.RestoreError: The restore failed; `retry` says whether the image may be used again.
        errors.ImageError: There is no usable image.
    """
    image = container.image
    if image is None:
        raise errors.ImageError("there is no image to restore")
    try:
        with engine.rush:
            restored = _first_byte(container, engine, image)
        engine.rush.give_way(PATIENCE)
        try:
            restored.settle()
        except ProcessLookupError as gone:
            # What woke it was its last: a SIGTERM, a request to quit. The exit is on its way, the wake did not fail.
            log.info("settle.gone", extra={"error": str(gone)})
        container.drain = restored.drain
    finally:
        if container.drain is None:
            engine.room.give_back(container.record.id)
    if container.drain is None:
        image.drop()
        container.image = None


def _first_byte(container: Container, engine: Engine, image: images.Image) -> Restored:
    """What somebody waits for."""
    clock = Clock()
    with engine.unthrottled.lifted(cgroups.of(container.record.pid)):
        restored = _restore(container, engine, image)
        inside = dict(restored.phases)
        inside.pop("total")
        clock.phase("restore")
    restored.resume()
    clock.phase("supervisor")
    container.times.wake = _phases(clock, inside)
    engine.execs.release(container.record.id)
    return restored


def _restore(container: Container, engine: Engine, image: images.Image) -> Restored:
    attempt = functools.partial(
        restore.restore,
        engine.zygotes,
        container.target,
        image,
        lazy=lazy.wanted(container.record.policy.lazy_restore, image.manifest),
        admit=functools.partial(_admit, container, engine, image),
        running=functools.partial(_replay, container),
    )
    with _passing(container, engine, image):
        try:
            return attempt()
        except errors.RestoreError as error:
            if not error.retry or not _mended(container, image, error):
                raise
            return attempt()


def _admit(container: Container, engine: Engine, image: images.Image) -> None:
    need = Need(image.manifest.pages_bytes, image.manifest.tasks)
    engine.room.take(container.record.id, container.record.pid, need)


@contextlib.contextmanager
def _passing(container: Container, engine: Engine, image: images.Image) -> Iterator[None]:
    """What is in the way of a restore only for a time is no failure of the image.

    Raises:
        errors.NoRoom: Instead of the error that told it.
    """
    try:
        yield
    except (errors.CheckpointerError, OSError) as error:
        if isinstance(error, errors.RestoreError) and not error.retry:
            raise
        kind, reason = errors.kind_of(error), errors.reason_of(error)
        if kind is Kind.DISK_FULL:
            raise errors.NoRoom(f"{reason}; {_MAKE_SPACE}", kind=kind) from error
        if kind is Kind.IMAGE_UNWRITABLE:
            raise errors.NoRoom(f"{reason}; {_MAKE_WRITABLE}", kind=kind) from error
        if kind is Kind.NO_ROOM_TASKS:
            raise errors.NoRoom(f"{reason}; {_MORE_TASKS}", kind=kind) from error
        if kind is Kind.PID_TAKEN:
            reason = _in_the_way(container, engine, image) or reason
            raise errors.NoRoom(reason, kind=kind) from error
        raise


def _in_the_way(container: Container, engine: Engine, image: images.Image) -> str:
    """Say who has a pid of the application's; "" if nobody has by now.

    An exec that waits for this very wake would keep it for ever.
    """
    found = pids.takers(container.record.pid, image.manifest.security)
    if not found:
        return ""
    said = f"{found[0]}, which was the application's"
    if engine.execs.turn_away(container.record.id, {taker.pid for taker in found}):
        return f"{said}; it was an exec that waited for the application, and was told to try again"
    return f"{said}; end it"


def _mended(container: Container, image: images.Image, error: errors.RestoreError) -> bool:
    """Whether files that the restore missed are there now."""
    if not any(_GONE.search(line) for line in error.lines):
        return False
    try:
        made = volumes.mend(image.path, container.record.pid)
    except (OSError, errors.ImageError) as worse:
        log.warning("restore.not_mended", exc_info=worse)
        return False
    if made:
        log.warning("restore.mended", extra={"reason": str(error), "made": " ".join(made)})
    return bool(made)


def _replay(container: Container) -> None:
    """Give the packets back. The application runs by now: what fails here costs its clients a retransmission."""
    if container.hold is None:
        return
    try:
        container.hold.replay()
    except (OSError, RedirectorError) as error:
        log.warning("replay.failed", exc_info=error)


def drained(container: Container, engine: Engine) -> bool:
    """Wait for the page daemon of a lazy wake; drop the image once every page is in.

    Returns:
        True if all pages came in; False if the page daemon died and the image was restored once more, eagerly.
        In that case what the application did since its wake is lost to it: it had blocked before it could read a
        wrong byte.
    """
    drain, image = container.drain, container.image
    if drain is None or image is None:
        return True
    whole = drain.wait() is lazy.Drained.OK
    engine.room.give_back(container.record.id)
    # Else it has ended meanwhile, and needs no pages.
    if not whole and container.supervisor.alive():
        _again(container, engine, image, drain)
    # In this order: the next image has the same place, and a sleep waits for the end of the drain.
    image.drop()
    container.image = None
    container.drain = None
    return whole


def _again(container: Container, engine: Engine, image: images.Image, drain: lazy.Drain) -> None:
    """Restore once more, with packets and execs held: the kernel would answer for the dead application with resets."""
    held = image.manifest.held
    first = container.hold is None  # else an earlier try failed, and they are held still
    if container.hold is None:
        log.error("drain.failed", extra={"remedy": "restoring eagerly from the same image"})
        container.tally.wake_failures[Kind.PAGE_DAEMON] += 1
        engine.execs.hold(container.record.id, container.record.pid)
        container.hold = container.pod.hold(container.record.id)
    container.hold.only(held.ports, held.connections, container.unheeded, held.streams)
    if first:
        container.spoken = _spoken(container)
    groups = cgroups.of(container.record.pid)
    with engine.unthrottled.lifted(groups), _passing(container, engine, image):
        restored = restore.again(
            engine.zygotes,
            container.target,
            image,
            drain,
            running=functools.partial(_set_back, container),
        )
    engine.execs.release(container.record.id)
    restored.resume()
    restored.settle()
    hold, container.hold = container.hold, None
    hold.close()


def _spoken(container: Container) -> frozenset[Connection]:
    """Connections on which something was said since the wake, but those of the application with itself."""
    application = container.supervisor.application()
    if application is None:
        return frozenset()
    try:
        own = processes.socket_inodes(processes.tree(application))
        table = sockets.table(application, talks=True)
    except OSError:
        return frozenset()  # it has just ended, and so have they
    mine = sockets.connections(table, own)
    return frozenset(
        one.connection()
        for one in table
        if one.inode in own
        and one.talk not in (None, (None, None))
        and Connection(*one.remote, *one.local) not in mine
    )


def _set_back(container: Container) -> None:
    """It is where it was when it fell asleep: whoever has heard more from it has to be told, or would wait for ever."""
    if container.spoken:
        log.warning("drain.resets", extra={"connections": len(container.spoken)})
        try:
            sockets.reset(container.record.pid, container.spoken)
        except OSError as error:
            log.warning("drain.resets_failed", exc_info=error)
    _replay(container)


def _phases(clock: Clock, inside: dict[str, float]) -> dict[str, float]:
    """The restore's own phases in the place of its sum; what they leave of it is `around`."""
    phases = clock.phases()
    phases.pop("total")
    whole = phases.pop("restore")
    return {**phases, **inside, "around": max(0.0, whole - sum(inside.values()))}
