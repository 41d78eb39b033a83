"""From what the daemon holds to what a scrape sees; called from the scrape's thread."""

import os
import time
from collections import Counter
from collections.abc import Iterable

from checkpointer import api
from checkpointer.container import Container
from checkpointer.containers import Record
from checkpointer.engine import Engine
from checkpointer.lifecycle import Mode, State
from checkpointer.metrics import Sample, View


def view(
    engine: Engine, records: Iterable[Record], managed: Iterable[Container], *, plugin: bool
) -> View:
    """The node at this moment.

    Args:
        engine: Its store and tally.
        records: All containers that ask for zeropod.
        managed: Those that have an actor.
        plugin: Whether the plugin has reported.
    """
    now = time.monotonic()
    disk = os.statvfs(engine.store.root)
    return View(
        samples=[_sample(container, now) for container in managed],
        unmanaged=Counter(record.kind for record in records if record.reason),
        tally=engine.tally,
        store_bytes=engine.store.usage(),
        disk_free_bytes=disk.f_bavail * disk.f_frsize,
        disk_bytes=disk.f_blocks * disk.f_frsize,
        plugin=plugin,
        version=api.version(),
        criu=engine.zygotes.bundle.version,
    )


def _sample(container: Container, now: float) -> Sample:
    # Once: the loop and the workers go on meanwhile.
    record, tally, hold, image = container.record, container.tally, container.hold, container.image
    state = container.life.state
    gone = state in {State.ASLEEP, State.WAKING}
    freed = image.manifest.pages_bytes if image is not None else 0
    if container.mode is Mode.OFF:
        freed = container.freed
    return Sample(
        who=(record.namespace, record.pod, record.name),
        state=state,
        tally=tally,
        asleep=tally.asleep_until(now),
        image_bytes=image.manifest.total_bytes if image is not None else 0,
        reclaimed_bytes=freed if gone else 0,
        held_frames=hold.queued if hold is not None else 0,
        dropped_frames=tally.dropped + (hold.dropped if hold is not None else 0),
        answered_keepalives=tally.answered + (hold.answered if hold is not None else 0),
        would_sleep=container.dozes.sleeps,
        would_wake=container.dozes.wakes,
        would_save=container.dozes.saves,
    )
