"""Waking one container: restore, let the packets in, let the waiting execs go. Blocking; on a worker.

Ordered for the first byte: what a client does not need (the rest of the v1 cgroup hierarchies, taking the TAP down,
removing the image) comes after the replay.
"""

import logging
import time

from checkpointer import cgroups, errors, lazy, restore
from checkpointer.container import Container
from checkpointer.engine import Engine

log = logging.getLogger(__name__)


class NoRoom(Exception):
    """The memory or process limits leave no room for the application now."""


def run(container: Container, engine: Engine) -> None:
    """Restore and replay; afterwards the application runs. The hold is off, but the caller's to close.

    Raises:
        NoRoom: Nothing was tried.
        errors.RestoreError: The restore failed; `retry` says whether the image may be used again.
        errors.ImageError: There is no usable image.
    """
    image = container.image
    if image is None:
        raise errors.ImageError("there is no image to restore")
    clock = Clock()
    if no_room := cgroups.room(container.target, image.manifest):
        raise NoRoom(no_room)
    clock.lap("room")
    restored = restore.restore(
        engine.zygotes,
        container.target,
        image,
        lazy=image.manifest.pages_bytes > engine.settings.lazy_above,
        timeout=engine.settings.restore_timeout,
    )
    clock.lap("restore")
    restored.resume()
    clock.lap("resume")
    hold = container.hold
    if hold is not None:
        hold.replay()
    clock.lap("replay")
    container.times.wake = clock.phases
    engine.execs.release(container.record.id)
    restored.settle()
    container.drain = restored.drain
    if container.drain is None:
        image.drop()
        container.image = None


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
    if not whole:
        log.error("drain.failed", extra={"remedy": "restoring eagerly from the same image"})
        restored = lazy.retry(engine.zygotes, container.target, image, drain)
        restored.resume()
        restored.settle()
    container.drain = None
    container.image = None
    image.drop()
    return whole


class Clock:
    """Milliseconds between laps, by name; they add up to the time since the first."""

    def __init__(self) -> None:
        self.phases: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        """End a phase."""
        now = time.perf_counter()
        self.phases[name] = 1e3 * (now - self._last)
        self._last = now
