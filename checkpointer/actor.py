"""One guarded task per container: feeds events to `lifecycle.step` and performs what it answers.

Everything that blocks runs on the node's worker threads; this module only waits for it. An actor is the single writer
of its container's life, so that two causes of a wake, or a packet in the middle of a sleep, need no lock.
"""

import asyncio
import concurrent.futures
import logging
import time
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from checkpointer import errors, idle, lifecycle, log, processes, sleep, traffic, wake
from checkpointer.container import Container
from checkpointer.engine import Engine
from checkpointer.lifecycle import State
from redirector import sockets

logger = logging.getLogger(__name__)

NO_PORT_LOOK = (0.5, 10.0)
"""Seconds between looks at a container that does not listen yet: first, and the most it doubles to."""

DRAIN_LOOK = 0.02
"""Seconds between looks at a drain that a sleep waits for."""

T = TypeVar("T")

Observer = Callable[[Container, State], None]


class Actor:
    """Owns one container.

    Args:
        container: What it owns; nobody else changes its life.
        engine: Shared by all actors.
        pool: Threads for what blocks.
        observe: Called after each transition with the container and the state before.
        ended: Called once, when nothing of the container is left.
    """

    def __init__(
        self,
        container: Container,
        engine: Engine,
        pool: concurrent.futures.Executor,
        observe: Observer,
        ended: Callable[[Container], None],
    ) -> None:
        self.container = container
        self._engine = engine
        self._pool = pool
        self._observe = observe
        self._ended = ended
        self._loop = asyncio.get_running_loop()
        self._events: asyncio.Queue[lifecycle.Event] = asyncio.Queue()
        self._timer: asyncio.TimerHandle | None = None
        self._jobs: set[asyncio.Task[None]] = set()
        self._settled = asyncio.Condition()
        self._no_port = NO_PORT_LOOK[0]
        self._reading: int | None = None
        self._task = self._loop.create_task(self._run(), name=f"actor {container.record.title}")

    # --- what others may ask -----------------------------------------------------------------------------------------

    def post(self, event: lifecycle.Event) -> None:
        """Hand in an event; from the loop's own thread."""
        self._events.put_nowait(event)

    def post_soon(self, event: lifecycle.Event) -> None:
        """Hand in an event from any thread."""
        self._loop.call_soon_threadsafe(self._events.put_nowait, event)

    def watch(self) -> None:
        """Begin: hold the packets of what is asleep, look at the activity of what runs."""
        if self.container.life.state is State.ASLEEP:
            self._listen()
        elif self.container.life.state is State.RUNNING:
            self._look_in(0.0)
        if self.container.drain is not None:
            self._start(self._drain(), "drain")

    async def reach(self, states: set[State], timeout: float) -> State:
        """Wait until the container is in one of `states`, or has ended; the state it is in after `timeout` seconds."""
        wanted = states | {State.GONE}
        async with self._settled:
            try:
                async with asyncio.timeout(timeout):
                    await self._settled.wait_for(lambda: self.container.life.state in wanted)
            except TimeoutError:
                pass
        return self.container.life.state

    async def caught_up(self) -> None:
        """Wait until all events posted so far have been dealt with."""
        await self._events.join()

    async def close(self) -> None:
        """Stop acting and let running jobs end: a checkpoint or restore in progress is finished, not cut off."""
        self._quiet()
        if self.container.life.state is State.SLEEPING:
            self._perform(lifecycle.CallOff("drain"))
        while self._jobs:
            await asyncio.wait(self._jobs)
        await asyncio.sleep(0)
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        self._quiet()

    # --- the task ----------------------------------------------------------------------------------------------------

    async def _run(self) -> None:
        record = self.container.record
        log.bound.set({"pod": f"{record.namespace}/{record.pod}", "container": record.name})
        while True:
            event = await self._events.get()
            try:
                await self._deal_with(event)
            except Exception:
                # A mistake of ours must not leave the container to nobody.
                logger.exception("event.broke", extra={"event": type(event).__name__})
            finally:
                self._events.task_done()

    async def _deal_with(self, event: lifecycle.Event) -> None:
        before = self.container.life
        self.container.life, effects = lifecycle.step(before, event)
        for effect in effects:
            self._perform(effect)
        if self.container.life is not before:
            await self._publish(before)

    async def _publish(self, before: lifecycle.Life) -> None:
        container, after = self.container, self.container.life
        if after.state is not before.state:
            container.since = time.time()
            if after.state is State.RUNNING:
                container.active = time.monotonic()
            elif after.state is State.ASLEEP:
                self._listen()
                if container.called_off.is_set():
                    # It came too late to stop the sleep; who asked would wait for the next one to ask.
                    self.post(lifecycle.WakeAsked(container.off_cause))
            self._log(before.state)
            self._observe(container, before.state)
        elif after.reason != before.reason:
            self._observe(container, before.state)  # held, or failed and tried again
        async with self._settled:
            self._settled.notify_all()

    def _perform(self, effect: lifecycle.Effect) -> None:
        match effect:
            case lifecycle.Sleep():
                self.container.called_off.clear()
                if self.container.life.cause != "idle":
                    self.container.quiet = time.monotonic()
                self._quiet_timer()
                self._start(self._sleep(), "sleep")
            case lifecycle.CallOff(cause):
                self.container.off_cause = cause
                self.container.called_off.set()
            case lifecycle.Wake():
                # On its way to a thread before anything is logged or told: a client waits.
                woken = self._loop.run_in_executor(
                    self._pool, wake.run, self.container, self._engine
                )
                self._start(self._wake(woken), "wake")
            case lifecycle.WakeLater(seconds):
                self._loop.call_later(seconds, self.post, lifecycle.RetryWake())
            case lifecycle.Rest(seconds):
                self._look_in(seconds)
            case lifecycle.Fail(reason):
                self._start(self._fail(reason), "fail")
            case lifecycle.CleanUp():
                self._quiet()
                self._start(self._clean_up(), "clean up")

    def _start(self, job: Coroutine[Any, Any, None], name: str) -> None:
        task = self._loop.create_task(job, name=f"{name} {self.container.record.title}")
        self._jobs.add(task)
        task.add_done_callback(self._finished)

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._jobs.discard(task)
        if not task.cancelled() and task.exception() is not None:
            logger.error("job.broke", extra={"job": task.get_name()}, exc_info=task.exception())

    async def _threaded(self, function: Callable[[], T]) -> T:
        return await self._loop.run_in_executor(self._pool, function)

    # --- sleep and wake ----------------------------------------------------------------------------------------------

    async def _sleep(self) -> None:
        # Somebody asked for it right after a lazy wake; by itself a container is not idle while its pages come in.
        # Polled, because threads set both.
        while self.container.drain is not None and not self.container.called_off.is_set():  # noqa: ASYNC110
            await asyncio.sleep(DRAIN_LOOK)
        try:
            await self._threaded(lambda: sleep.run(self.container, self._engine))
        except sleep.CalledOff as off:
            self.post(lifecycle.SleepCalledOff(off.cause))
        except errors.Refused as refused:
            self.post(lifecycle.SleepRefused(refused.reason, refused.kind))
        except errors.DumpError as error:
            self._dump_failed(error)
        except Exception as error:
            logger.warning("sleep.failed", exc_info=error)
            self.post(lifecycle.SleepFailed(_reason(error), errors.kind_of(error)))
        else:
            self.container.times.sleeps += 1
            self.post(lifecycle.Slept())
            # Nobody listened between the last look inside the dump and now: what came in meanwhile is in the queue.
            self._held_wake()

    def _dump_failed(self, error: errors.DumpError) -> None:
        logger.warning(
            "sleep.failed",
            extra={
                "reason": error.reason,
                "kind": error.kind,
                "criu": " | ".join(error.lines),
                "log": error.log,
            },
        )
        if error.outcome is errors.Outcome.LOST:
            self.post(lifecycle.Lost(error.reason, error.kind))
        else:
            self.post(lifecycle.SleepFailed(error.reason, error.kind))

    async def _wake(self, woken: asyncio.Future[None]) -> None:
        try:
            await woken
        except errors.NoRoom as full:
            if full.reason != self.container.life.reason:
                logger.warning("wake.held", extra={"reason": full.reason, "kind": full.kind})
            self.post(lifecycle.WakeHeld(full.reason, full.kind))
        except errors.RestoreError as error:
            logger.warning(
                "wake.failed",
                extra={
                    "reason": error.reason,
                    "kind": error.kind,
                    "criu": " | ".join(error.lines),
                    "log": error.log,
                },
            )
            failed = lifecycle.WakeFailed if error.retry else lifecycle.Lost
            self.post(failed(error.reason, error.kind))
        except Exception as error:
            logger.warning("wake.failed", exc_info=error)
            self.post(lifecycle.WakeFailed(_reason(error), errors.kind_of(error)))
        else:
            self.container.times.wakes += 1
            self.container.times.wake_cause = self.container.life.cause
            self.post(lifecycle.Woke())
            await self._close_hold()
            if self.container.drain is not None:
                await self._drain()

    async def _close_hold(self) -> None:
        hold, self.container.hold = self.container.hold, None
        self._deafen()  # before its descriptor is closed, and perhaps given to somebody else
        if hold is not None:
            try:
                await self._threaded(hold.close)
            except Exception as error:
                logger.warning("hold.failed", exc_info=error)

    async def _drain(self) -> None:
        started = time.monotonic()
        try:
            await self._drained()
        except Exception as error:
            logger.warning("drain.failed", exc_info=error)
            self.container.drain = None
            self.post(lifecycle.Lost(_reason(error), errors.kind_of(error)))
        logger.info("drain.complete", extra={"ms": 1e3 * (time.monotonic() - started)})

    async def _drained(self) -> None:
        """Wait for the pages; if they cannot come any more, restore again as often as a wake is tried."""
        for failures in range(1, lifecycle.MAX_WAKES + 1):
            try:
                await self._loop.run_in_executor(
                    self._engine.drains, wake.drained, self.container, self._engine
                )
            except errors.RestoreError as error:
                if not error.retry or failures == lifecycle.MAX_WAKES:
                    raise
                await asyncio.sleep(lifecycle.backoff(lifecycle.WAKE_BACKOFF, failures))
            else:
                return

    async def _fail(self, reason: str) -> None:
        logger.error("container.failed", extra={"reason": reason, "exit_code": 71})
        record_id = self.container.record.id
        self._engine.execs.release(record_id)  # there is nothing to wait for any more
        try:
            await self._threaded(lambda: self._engine.store.fail(record_id))
        except OSError as error:
            logger.warning("image.lost", exc_info=error)
        self.container.image = None
        await self._threaded(self.container.fail)

    async def _clean_up(self) -> None:
        record = self.container.record
        await self._close_hold()
        self._engine.execs.release(record.id)
        try:
            # What an earlier daemon's hold left in the maps would keep the packets of its successor in the pod.
            await self._threaded(lambda: self.container.pod.abandon(record.id))
            # The image of a failed container was put aside before; this drops what nobody can use any more.
            await self._threaded(lambda: self._engine.store.drop(record.id))
        finally:
            self._ended(self.container)

    # --- looking and listening ---------------------------------------------------------------------------------------

    def _listen(self) -> None:
        """Read the TAP while the container is asleep or waking."""
        hold = self.container.hold
        if hold is not None and self._reading is None:
            self._reading = hold.fd
            self._loop.add_reader(hold.fd, self._held_wake)

    def _deafen(self) -> None:
        if self._reading is not None:
            self._loop.remove_reader(self._reading)
            self._reading = None

    def _held_wake(self) -> bool:
        """Take what came in; True if it is a reason to wake."""
        hold = self.container.hold
        if hold is None:
            return False
        cause = hold.receive()
        if cause is None:
            return False
        self.post(lifecycle.WakeAsked(cause.kind))
        return True

    def _look_in(self, seconds: float) -> None:
        self._quiet_timer()
        if self.container.record.policy.scaledown <= 0:
            self.container.busy = "scaledown-duration is 0"
            return
        self.container.look_at = time.monotonic() + seconds
        self._timer = self._loop.call_later(seconds, lambda: self._start(self._look(), "look"))

    async def _look(self) -> None:
        if not self._runs():
            return
        if self.container.drain is not None:
            self.container.busy = "its pages are still being brought in after the last wake"
            self._look_in(1.0)
            return
        looked = time.monotonic()
        try:
            decision = await self._threaded(self._decide)
        except OSError as error:
            # A process ended while it was looked at. If it was the last one, the exit is on its way.
            logger.debug("look.failed", extra={"error": str(error)})
            self._look_in(1.0)
            return
        except Exception as error:
            logger.warning("look.failed", exc_info=error)
            self.container.busy = f"it could not be looked at: {_reason(error)}"
            self._look_in(NO_PORT_LOOK[1])
            return
        if not self._runs():
            return
        match decision:
            case idle.Idle():
                self.container.busy = ""
                self.container.quiet = looked
                self.post(lifecycle.SleepAsked("idle"))
            case idle.Busy(until, because):
                self.container.busy = because
                self._look_in(max(0.05, until - time.monotonic()))

    def _runs(self) -> bool:
        return self.container.life.state is State.RUNNING

    def _decide(self) -> idle.Idle | idle.Busy:
        container = self.container
        now = time.monotonic()
        application = container.supervisor.application()
        if application is None:
            return idle.Busy(now + 1.0, "the application is starting or ending")
        tree = processes.tree(application)
        table = sockets.table(application, talks=True)
        inodes = processes.socket_inodes(tree)
        container.ports = frozenset(sockets.listening(table, inodes))
        if because := container.record.policy.unreachable(container.ports):
            self._no_port = min(NO_PORT_LOOK[1], self._no_port * 2)
            return idle.Busy(now + self._no_port, because)
        self._no_port = NO_PORT_LOOK[0]
        return idle.decide(
            now,
            scaledown=container.record.policy.scaledown,
            since=container.active,
            seen=traffic.seen(container, table, inodes),
            sessions=len(container.sessions()),
            unsent=sockets.unsent(table, inodes),
        )

    def _quiet_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _quiet(self) -> None:
        self._quiet_timer()
        self._deafen()

    def _log(self, before: State) -> None:
        life, times = self.container.life, self.container.times
        phases = times.sleep if life.state is State.ASLEEP else {}
        if before is State.WAKING and life.state is State.RUNNING:
            phases = times.wake
        extra: dict[str, object] = {"cause": life.cause}
        if life.reason:
            extra |= {"reason": life.reason, "kind": life.kind}
        if phases:
            extra["ms"] = times.total(phases)
            extra |= {f"ms_{name}": value for name, value in phases.items()}
        logger.info("%s", f"container.{life.state.lower()}", extra=extra)


def _reason(error: Exception) -> str:
    return getattr(error, "reason", None) or str(error) or type(error).__name__
