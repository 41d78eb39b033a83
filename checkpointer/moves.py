"""What is done to a container, a sleep, a wake, a drain, an end, each with the event that it comes to.

What blocks runs on threads; here it is waited for, and what it raises becomes an event or a line in the log.
"""

import asyncio
import concurrent.futures
import dataclasses
import logging
import time
from collections.abc import Callable
from typing import TypeVar

from checkpointer import cell, doors, dryrun, errors, frost, lifecycle, off, sleep, wake
from checkpointer.container import Container
from checkpointer.engine import Engine
from checkpointer.kinds import Kind
from checkpointer.lifecycle import Event, Mode
from redirector.errors import RedirectorError

logger = logging.getLogger(__name__)

DRAIN_LOOK = 0.02
"""Seconds between looks at a drain that a sleep waits for."""

T = TypeVar("T")


_SOON = frozenset({Kind.NOT_RUNNING, Kind.NO_PORT, Kind.PORTS, Kind.TIME_WAIT, Kind.PAGES_COMING})
"""What is otherwise in a moment, would leave nobody to thaw it, or is in the way of that, too: no reason to freeze."""


@dataclasses.dataclass(frozen=True, slots=True)
class _Obstacle:
    """Why it cannot be checkpointed, and until when (monotonic seconds) that is not tried again."""

    reason: str
    kind: Kind
    until: float


class Moves:
    """The moves of one container; its actor makes one at a time.

    Args:
        container: What is moved.
        engine: Shared by all.
        pool: Threads for what blocks.
    """

    def __init__(
        self, container: Container, engine: Engine, pool: concurrent.futures.Executor
    ) -> None:
        self._container = container
        self._engine = engine
        self._pool = pool
        self._obstacle: _Obstacle | None = None
        self._queued = 0.0  # milliseconds for which the last wake waited for a thread
        self._loop = asyncio.get_running_loop()

    async def sleep(self) -> Event:
        """Put it to rest in the way that its owner wants."""
        container = self._container
        # Somebody asked for it right after a lazy wake; by itself a container is not idle while its pages come in.
        # Polled, because threads set both.
        while container.drain is not None and not container.called_off.is_set():  # noqa: ASYNC110
            await asyncio.sleep(DRAIN_LOOK)
        try:
            # Waited for here: a pod's containers that become idle at once must not take the threads that wake others.
            async with self._engine.pod_locks[container.record.sandbox_id]:
                return await self._rest()
        except doors.CalledOff as off:
            return lifecycle.SleepCalledOff(off.cause)
        except errors.Refused as refused:
            return lifecycle.SleepRefused(refused.reason, refused.kind)
        except errors.DumpError as error:
            logger.warning("sleep.failed", extra=_evidence(error))
            lost = error.outcome is errors.Outcome.LOST
            failed = lifecycle.Lost if lost else lifecycle.SleepFailed
            return failed(str(error), error.kind)
        except Exception as error:
            logger.warning("sleep.failed", exc_info=error)
            return lifecycle.SleepFailed(errors.reason_of(error), errors.kind_of(error))

    async def _rest(self) -> Event:
        container, engine = self._container, self._engine
        if container.record.policy.disable_checkpointing:
            # On a thread of those that may wait: an application may take ten seconds to end.
            await self._loop.run_in_executor(engine.drains, off.end, container, engine)
            container.mode = Mode.OFF
        elif self._obstacle is not None and time.monotonic() < self._obstacle.until:
            return await self._freeze(self._obstacle, tried=False)
        else:
            try:
                await self._threaded(lambda: sleep.run(container, engine))
            except Exception as error:
                obstacle = self._in_the_way(error)
                if obstacle is None:
                    raise
                if isinstance(error, errors.DumpError):
                    logger.warning("sleep.failed", extra=_evidence(error))
                return await self._freeze(obstacle, tried=True)
            container.mode, self._obstacle = Mode.IMAGE, None
        container.times.sleeps += 1
        return lifecycle.Slept()

    def _in_the_way(self, error: Exception) -> _Obstacle | None:
        """Why it is to be frozen instead; None if it is not to be."""
        lost = isinstance(error, errors.DumpError) and error.outcome is errors.Outcome.LOST
        kind = errors.kind_of(error)
        if (
            self._container.record.policy.on_failure != "freeze"
            or lost
            or isinstance(error, doors.CalledOff)
            or kind in _SOON
        ):
            return None
        pause = lifecycle.backoff(lifecycle.SLEEP_BACKOFF, self._container.life.failed_sleeps + 1)
        return _Obstacle(errors.reason_of(error), kind, time.monotonic() + pause)

    async def _freeze(self, obstacle: _Obstacle, *, tried: bool) -> Event:
        self._obstacle = obstacle
        try:
            await self._threaded(lambda: frost.freeze(self._container, self._engine))
        except doors.CalledOff:
            raise
        except (errors.CheckpointerError, OSError) as error:
            reason = f"{obstacle.reason}; and it could not be frozen: {errors.reason_of(error)}"
            raise errors.Refused(reason, kind=obstacle.kind) from error
        self._container.mode = Mode.FROZEN
        return lifecycle.Froze(obstacle.reason, obstacle.kind, tried)

    async def doze(self) -> Event:
        """In a dry run: see whether it could be put to sleep."""
        container, engine = self._container, self._engine
        try:
            await self._threaded(lambda: dryrun.begin(container, engine))
        except errors.Refused as refused:
            return lifecycle.SleepRefused(refused.reason, refused.kind)
        except Exception as error:
            logger.warning("doze.failed", exc_info=error)
            return lifecycle.SleepFailed(errors.reason_of(error), errors.kind_of(error))
        return lifecycle.WouldSleep("idle")

    def stir(self) -> None:
        """In a dry run: watch for execs no more."""
        self._engine.execs.release(self._container.record.id)

    def begin_wake(self) -> asyncio.Future[None]:
        """Put a wake on its way to a thread; `wake` waits for it."""
        container, engine, asked = self._container, self._engine, time.perf_counter()

        def run(way: Callable[[Container, Engine], None]) -> None:
            self._queued = 1e3 * (time.perf_counter() - asked)
            way(container, engine)

        match container.mode:
            case Mode.IMAGE:
                return self._loop.run_in_executor(self._pool, run, wake.run)
            case Mode.FROZEN:
                return self._loop.run_in_executor(self._pool, run, frost.thaw)
            case Mode.OFF:
                # It may take a minute to listen.
                return self._loop.run_in_executor(engine.drains, run, off.start)

    async def wake(self, woken: asyncio.Future[None]) -> Event:
        """Wait for a wake that was begun."""
        container = self._container
        try:
            await woken
        except errors.NoRoom as full:
            if full.kind != container.life.kind:  # its reason may have another number each time
                logger.warning("wake.held", extra={"reason": full.reason, "kind": full.kind})
            return lifecycle.WakeHeld(full.reason, full.kind)
        except errors.RestoreError as error:
            logger.warning("wake.failed", extra=_evidence(error))
            failed = lifecycle.WakeFailed if error.retry else lifecycle.Lost
            return failed(str(error), error.kind)
        except Exception as error:
            logger.warning("wake.failed", exc_info=error)
            return lifecycle.WakeFailed(errors.reason_of(error), errors.kind_of(error))
        container.times.wakes += 1
        container.times.wake = {"queue": self._queued, **container.times.wake}
        container.times.wake_cause = container.life.cause
        return lifecycle.Woke()

    async def close_hold(self) -> None:
        """Take down the hold, which holds nothing any more; its TAP must not be read any more."""
        hold, self._container.hold = self._container.hold, None
        if hold is not None:
            self._container.tally.dropped += hold.dropped
            self._container.tally.answered += hold.answered
            try:
                await self._threaded(hold.close)
            except Exception as error:
                logger.warning("hold.failed", exc_info=error)

    async def _refuse(self) -> None:
        """Tell everybody that a container has ended, as the kernel does where nobody sleeps.

        Else a client would wait for as long as it has patience: what it sends again may find no pod any more, and a
        connection that was led to a pod is led there for as long as it is tried. Who is connected and has nothing to
        say would never know.
        """
        if (hold := self._container.hold) is not None:
            try:
                await self._threaded(hold.refuse)
            except (OSError, RedirectorError) as error:  # the pod may have gone with it
                logger.info("refuse.failed", extra={"reason": errors.reason_of(error)})

    async def drain(self) -> Event | None:
        """Wait until the pages of a lazy wake are in; nobody hears of it unless they cannot come."""
        started = time.monotonic()
        try:
            await self._drained()
        except Exception as error:
            logger.warning("drain.failed", exc_info=error)
            self._container.drain = None
            return lifecycle.Lost(errors.reason_of(error), errors.kind_of(error))
        logger.info("drain.complete", extra={"ms": 1e3 * (time.monotonic() - started)})
        return None

    async def _drained(self) -> None:
        """Wait for the pages; if they cannot come any more, restore again as often as a wake is tried."""
        failures, said = 0, ""
        while True:
            try:
                await self._loop.run_in_executor(
                    self._engine.drains, wake.drained, self._container, self._engine
                )
            except errors.NoRoom as full:
                if full.kind != said:
                    logger.warning("drain.held", extra={"reason": full.reason, "kind": full.kind})
                said = full.kind
                await asyncio.sleep(lifecycle.WAKE_BACKOFF[0])
            except errors.RestoreError as error:
                failures += 1
                if not error.retry or failures == lifecycle.MAX_WAKES:
                    raise
                await asyncio.sleep(lifecycle.backoff(lifecycle.WAKE_BACKOFF, failures))
            else:
                return

    async def fail(self, reason: str) -> None:
        """Have the supervisor end, and keep the image for a look."""
        logger.error("container.failed", extra={"reason": reason, "exit_code": 71})
        record_id = self._container.record.id
        self._engine.execs.release(record_id)  # there is nothing to wait for any more
        try:
            await self._threaded(lambda: self._engine.store.fail(record_id))
        except OSError as error:
            logger.warning("image.lost", exc_info=error)
        self._container.image = None
        await self._threaded(self._container.fail)

    async def clean_up(self) -> None:
        """Take away everything that was the container's."""
        container, engine = self._container, self._engine
        await self._refuse()
        await self.close_hold()
        engine.execs.release(container.record.id)
        # What an earlier daemon's hold left in the maps would keep the packets of its successor in the pod.
        await self._threaded(lambda: container.pod.abandon(container.record.id))
        await self._threaded(lambda: cell.remove(container.record.id))
        # The image of a failed container was put aside before; this drops what nobody can use any more.
        await self._threaded(lambda: engine.store.drop(container.record.id))

    async def _threaded(self, function: Callable[[], T]) -> T:
        return await self._loop.run_in_executor(self._pool, function)


def _evidence(error: errors.EvidenceError) -> dict[str, object]:
    return {
        "reason": error.reason,
        "kind": error.kind,
        "criu": " | ".join(error.lines),
        "log": error.log,
    }
