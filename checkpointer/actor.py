"""One guarded task per container: feeds events to `lifecycle.step` and performs what it answers.

Everything that blocks runs on the node's worker threads; this module only waits for it. An actor is the single writer
of its container's life, so that two causes of a wake, or a packet in the middle of a sleep, need no lock.
"""

import asyncio
import concurrent.futures
import logging
import time
from collections.abc import Callable
from collections.abc import Set as AbstractSet

from checkpointer import lifecycle, log
from checkpointer.container import Container
from checkpointer.doorbell import Doorbell
from checkpointer.engine import Engine
from checkpointer.jobs import Jobs
from checkpointer.lifecycle import State
from checkpointer.lookout import Lookout
from checkpointer.moves import Moves

logger = logging.getLogger(__name__)

GOING = "daemon-stop"
"""The cause of what is done because the daemon goes down."""

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
        self._tally = engine.tally
        self._observe = observe
        self._ended = ended
        self._loop = asyncio.get_running_loop()
        self._events: asyncio.Queue[lifecycle.Event] = asyncio.Queue()
        self._settled = asyncio.Condition()
        self._jobs = Jobs(container.record.title)
        self._moves = Moves(container, engine, pool)
        self._lookout = Lookout(container, self._jobs, pool, self._idle, self._wanted)
        self._doorbell = Doorbell(container, self._wanted)
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
            self.container.tally.asleep_since = time.monotonic()
            self._doorbell.listen()
        elif self.container.life.state is State.RUNNING:
            self._lookout.look_in(0.0)
        if self.container.drain is not None:
            self._jobs.start(self._drain(), "drain")

    def renewed(self) -> None:
        """Its policy is another one: a container that was never to sleep may have to, at once."""
        if self.container.life.state is State.RUNNING and not self.container.closing.is_set():
            self._lookout.look_in(0.0)

    async def reach(self, states: AbstractSet[State], timeout: float) -> State:
        """Wait until the container is in one of `states`, or has ended; the state it is in after `timeout` seconds."""
        wanted = states | {State.GONE}
        async with self._settled:
            try:
                async with asyncio.timeout(timeout):
                    await self._settled.wait_for(lambda: self.container.life.state in wanted)
            except TimeoutError:
                pass
        return self.container.life.state

    async def bring_to(
        self, states: AbstractSet[State], event: lifecycle.Event, timeout: float
    ) -> State:
        """Post `event`, which leads to one of `states`, and wait for it; the state after `timeout` seconds at the most.

        What is under way ends first: half a wake cannot be turned into a sleep, nor half a sleep into a wake.
        """
        deadline = self._loop.time() + timeout
        stable = {*lifecycle.AT_REST, State.RUNNING}
        if await self.reach(stable, timeout) not in states:
            self.post(event)
            await self.caught_up()
            await self.reach(stable, deadline - self._loop.time())
        return self.container.life.state

    async def caught_up(self) -> None:
        """Wait until all events posted so far have been dealt with."""
        await self._events.join()

    def retire(self) -> None:
        """Begin to close: nothing is put to sleep any more, who is wanted is woken still."""
        self._lookout.stop()
        self.container.closing.set()
        if self.container.life.state is State.SLEEPING and not self.container.called_off.is_set():
            self._perform(lifecycle.CallOff(GOING))

    async def at_rest(self) -> None:
        """Wait until nothing is under way."""
        await self._jobs.ended()

    async def close(self) -> None:
        """Stop acting and let running jobs end: a checkpoint or restore in progress is finished, not cut off."""
        self._quiet()
        self.retire()
        await self._jobs.ended()
        await self.caught_up()
        if self.container.life.state is State.FROZEN:
            # Nobody could thaw it if no daemon came back.
            self._wanted(GOING)
            await self.caught_up()
            await self._jobs.ended()
        await asyncio.sleep(0)
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        self._quiet()

    # --- the task ----------------------------------------------------------------------------------------------------

    def _idle(self) -> None:
        if self.container.closing.is_set():
            return
        if self.container.record.policy.dry_run:
            self._jobs.start(self._doze(), "doze")
        else:
            self.post(lifecycle.SleepAsked("idle"))

    def _wanted(self, cause: str) -> None:
        self.post(lifecycle.WakeAsked(cause))

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
            self._count(before, event)
            await self._publish(before)

    def _count(self, before: lifecycle.Life, event: lifecycle.Event) -> None:
        tally, times = self.container.tally, self.container.times
        after = self.container.life
        tally.note(before, event, after, epoch=time.time(), ticks=time.monotonic())
        self._tally.note(before, after)
        match event:
            case lifecycle.Slept():
                tally.checkpoints.add(times.total(times.sleep) / 1e3)
                self._tally.slept(self.container.mode, times.sleep)
            case lifecycle.Woke():
                tally.restores.add(times.total(times.wake) / 1e3)
                self._tally.woke(self.container.mode, times.wake)
            case _:
                pass
        if before.would_sleep and not self.container.life.would_sleep:
            self.container.dozes.end(self.container.life.cause, time.monotonic())

    async def _publish(self, before: lifecycle.Life) -> None:
        container, after = self.container, self.container.life
        if after.state is not before.state:
            container.since = time.time()
            if after.state is State.RUNNING:
                container.active = time.monotonic()
                if before.state is State.WAKING:
                    container.woke = container.active
            elif after.state in lifecycle.AT_REST:
                self._doorbell.listen()
                if container.called_off.is_set() and container.off_cause != GOING:
                    # It came too late to stop the sleep; who asked would wait for the next one to ask.
                    self.post(lifecycle.WakeAsked(container.off_cause))
            self._log(before.state)
            self._observe(container, before.state)
        elif after.would_sleep is not before.would_sleep:
            if not after.would_sleep:
                container.active = container.woke = time.monotonic()
            self._log_doze()
            self._observe(container, before.state)
        elif after.reason != before.reason and not _held_still(before, after):
            self._observe(container, before.state)  # held, or failed and tried again
        async with self._settled:
            self._settled.notify_all()

    def _perform(self, effect: lifecycle.Effect) -> None:
        match effect:
            case lifecycle.Sleep():
                self.container.called_off.clear()
                if self.container.life.cause != "idle":
                    self.container.quiet = time.monotonic()
                self._lookout.stop()
                self._jobs.start(self._sleep(), "sleep")
            case lifecycle.CallOff(cause):
                self.container.off_cause = cause
                self.container.called_off.set()
            case lifecycle.Wake():
                # On its way to a thread before anything is logged or told: a client waits.
                self._jobs.start(self._wake(self._moves.begin_wake()), "wake")
            case lifecycle.WakeLater(seconds):
                self._loop.call_later(seconds, self.post, lifecycle.RetryWake())
            case lifecycle.Rest(seconds):
                self._lookout.look_in(seconds)
            case lifecycle.Stir():
                self._moves.stir()
            case lifecycle.Fail(reason):
                self._jobs.start(self._moves.fail(reason), "fail")
            case lifecycle.CleanUp():
                self._quiet()
                self._jobs.start(self._clean_up(), "clean up")

    async def _doze(self) -> None:
        self.post(await self._moves.doze())

    async def _sleep(self) -> None:
        self.post(await self._moves.sleep())
        # Nobody listened between the last look inside the dump and now: what came in meanwhile is in the queue.
        self._doorbell.check()

    async def _wake(self, woken: asyncio.Future[None]) -> None:
        event = await self._moves.wake(woken)
        self.post(event)
        if isinstance(event, lifecycle.Woke):
            self._doorbell.deafen()
            await self._moves.close_hold()
            await self._drain()

    async def _drain(self) -> None:
        if self.container.drain is not None and (event := await self._moves.drain()):
            self.post(event)

    async def _clean_up(self) -> None:
        try:
            await self._moves.clean_up()
        finally:
            self._ended(self.container)

    def _quiet(self) -> None:
        self._lookout.stop()
        self._doorbell.deafen()

    def _log(self, before: State) -> None:
        life, times = self.container.life, self.container.times
        phases = times.sleep if life.state in lifecycle.AT_REST else {}
        if before is State.WAKING and life.state is State.RUNNING:
            phases = times.wake
        extra: dict[str, object] = {"cause": life.cause}
        if life.reason:
            extra |= {"reason": life.reason, "kind": life.kind}
        if phases:
            extra["ms"] = times.total(phases)
            extra |= {f"ms_{name}": value for name, value in phases.items()}
        logger.info("%s", f"container.{life.state.lower()}", extra=extra)

    def _log_doze(self) -> None:
        life, dozes = self.container.life, self.container.dozes
        if life.would_sleep:
            logger.info("container.would_sleep", extra={"cause": life.cause, "bytes": dozes.saves})
        else:
            logger.info(
                "container.would_wake", extra={"cause": life.cause, "wakes": dozes.wakes.total()}
            )


def _held_still(before: lifecycle.Life, after: lifecycle.Life) -> bool:
    """Whether a wake waits for what it waited for, and only the numbers in the reason are others."""
    waits = before.state is after.state is State.WAKING
    return waits and (after.kind, after.failed_wakes) == (before.kind, before.failed_wakes)
