"""Containers on their way in: what is known of them is taken over, in whatever state the last daemon left it."""

import asyncio
import concurrent.futures
import dataclasses
import logging
import os
from collections.abc import Callable, Container, Sequence
from typing import NamedTuple

from checkpointer import adoption, container, errors, lifecycle, supervisor
from checkpointer.containers import Record
from checkpointer.engine import Engine
from checkpointer.farewell import Farewell
from checkpointer.roster import Roster

log = logging.getLogger(__name__)

AGAIN = 5.0
"""Seconds before a container that could not be taken over is tried again."""


class Arrived(NamedTuple):
    """A container that was taken over."""

    container: container.Container
    pidfd: int
    """Of its supervisor; the receiver's to close."""
    events: Sequence[lifecycle.Event]
    """What its actor is to hear first."""


class Arrivals:
    """Those that are being taken over, and those that could not be and are tried again.

    Args:
        engine: What is needed for it.
        pool: Threads for what blocks.
        roster: Where it is noted why one could not be taken over.
        farewell: Its pod may be on its way out, and is waited for.
        managed: Ids of those that have an actor.
        arrived: Called with one that was taken over.
        vanished: Called with one that ended before.
    """

    def __init__(
        self,
        engine: Engine,
        pool: concurrent.futures.Executor,
        roster: Roster,
        farewell: Farewell,
        managed: Container[str],
        arrived: Callable[[Arrived], None],
        vanished: Callable[[Record], None],
    ) -> None:
        self._engine = engine
        self._pool = pool
        self._roster = roster
        self._farewell = farewell
        self._managed = managed
        self._arrived = arrived
        self._vanished = vanished
        self._loop = asyncio.get_running_loop()
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._closed = False

    def __contains__(self, container_id: object) -> bool:
        return container_id in self._tasks

    def begin(self, record: Record) -> None:
        """Begin to take a container over, unless it has not started or that is done or being done."""
        if self._closed:
            return  # nobody would wake it
        if record.pid and record.id not in self._managed and record.id not in self._tasks:
            task = self._loop.create_task(self._adopt(record), name=f"adopt {record.title}")
            self._tasks[record.id] = task
            task.add_done_callback(lambda _: self._tasks.pop(record.id, None))

    async def over(self) -> None:
        """Wait until each was taken over, has ended, or could not be taken over for now."""
        while self._tasks:
            await asyncio.wait(list(self._tasks.values()))

    async def close(self) -> None:
        """Take over what is being taken over, and nothing else any more."""
        self._closed = True
        await self.over()

    async def _adopt(self, record: Record) -> None:
        await self._farewell.over(record.sandbox_id)
        try:
            pidfd = os.pidfd_open(record.pid)
        except ProcessLookupError:
            self._vanished(record)
            return
        try:
            if not record.alive() or not supervisor.is_supervisor(record.pid):
                raise ProcessLookupError(record.pid)
            run = self._loop.run_in_executor
            # Not on a thread of those that wake others: a criu that waits for a disk cannot be ended.
            await run(self._engine.drains, adoption.clear, record, self._engine)
            adopted, events = await run(self._pool, adoption.adopt, record, self._engine)
        except ProcessLookupError:
            os.close(pidfd)
            self._vanished(record)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is said and tried again
            os.close(pidfd)
            if record.alive():
                self._put_off(record, error)
            else:
                self._vanished(record)
        else:
            self._arrived(Arrived(adopted, pidfd, events))

    def _put_off(self, record: Record, error: Exception) -> None:
        reason = f"the daemon could not take it over and tries again: {error}"
        known = self._roster.get(record.id)
        if known is None or known.reason != reason:
            ours = isinstance(error, errors.CheckpointerError)
            extra = {"pod": record.title, "reason": reason}
            log.warning("adopt.failed", extra=extra, exc_info=None if ours else error)
        kind = errors.kind_of(error)
        self._roster.note(dataclasses.replace(record, reason=reason, kind=kind))
        self._loop.call_later(AGAIN, self._again, record)

    def _again(self, record: Record) -> None:
        if record.id not in self._roster:
            return
        if record.alive():
            self.begin(record)
        else:
            self._vanished(record)
