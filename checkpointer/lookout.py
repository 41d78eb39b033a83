"""Looks at a container that runs until it is idle: what is looked at, and when again.

The decision is `idle.decide`, which is pure; here is what it is told.
"""

import asyncio
import concurrent.futures
import logging
import time
from collections.abc import Callable

from checkpointer import cpu, dryrun, errors, idle, processes
from checkpointer.container import Container
from checkpointer.jobs import Jobs
from checkpointer.lifecycle import State
from checkpointer.traffic import Traffic, crowded, listening
from redirector import sockets

logger = logging.getLogger(__name__)

NO_PORT_LOOK = (0.5, 10.0)
"""Seconds between looks at a container that does not listen yet: first, and the most it doubles to."""

AGAIN = 1.0
"""Seconds before a look that could not be made is made again."""


class Lookout:
    """Looks at one container, on a timer.

    Args:
        container: Whose `busy`, `ports`, `look_at` and `quiet` say what was seen.
        jobs: Where looks are run.
        pool: Threads for what blocks.
        idle: Called when the container may sleep.
        wanted: In a dry run: called with the cause that would have woken it.
    """

    def __init__(
        self,
        container: Container,
        jobs: Jobs,
        pool: concurrent.futures.Executor,
        idle: Callable[[], None],
        wanted: Callable[[str], None],
    ) -> None:
        self._container = container
        self._jobs = jobs
        self._pool = pool
        self._idle = idle
        self._wanted = wanted
        self._timer: asyncio.TimerHandle | None = None
        self._no_port = NO_PORT_LOOK[0]
        self._spared = 0.0

    def look_in(self, seconds: float) -> None:
        """Look after so many seconds, instead of any other time."""
        self.stop()
        if self._container.record.policy.scaledown <= 0:
            self._container.busy = "scaledown-duration is 0"
            return
        self._container.look_at = time.monotonic() + seconds
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(seconds, lambda: self._jobs.start(self._look(), "look"))

    def stop(self) -> None:
        """Look no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    @property
    def looks(self) -> bool:
        """Whether another look is to come."""
        return self._timer is not None

    async def _look(self) -> None:
        container = self._container
        if not self._runs():
            return
        if container.drain is not None:
            container.busy = "its pages are still being brought in after the last wake"
            self.look_in(AGAIN)
            return
        looked = time.monotonic()
        look = self._glance if container.life.would_sleep else self._decide
        try:
            loop = asyncio.get_running_loop()
            decision = await loop.run_in_executor(self._pool, look)
        except OSError as error:
            # A process ended while it was looked at. If it was the last one, the exit is on its way.
            logger.debug("look.failed", extra={"error": str(error)})
            self.look_in(AGAIN)
            return
        except Exception as error:
            logger.warning("look.failed", exc_info=error)
            container.busy = f"it could not be looked at: {errors.reason_of(error)}"
            self.look_in(NO_PORT_LOOK[1])
            return
        if not self._runs():
            return
        match decision:
            case idle.Idle():
                container.busy = ""
                container.quiet = looked
                self._idle()
            case idle.Busy(until, because):
                container.busy = because
                now = time.monotonic()
                self.look_in(max(0.05, idle.early(now, until, container.record.policy) - now))
            case str(cause):
                self._wanted(cause)

    def _runs(self) -> bool:
        return self._container.life.state is State.RUNNING

    def _glance(self) -> idle.Busy | str:
        """In a dry run that would have it asleep: what would wake it."""
        if not self._container.record.policy.dry_run:
            return "policy"
        cause = dryrun.wake(self._container)
        return cause or idle.Busy(time.monotonic() + dryrun.LOOK, "")

    def _decide(self) -> idle.Idle | idle.Busy:
        container = self._container
        now = time.monotonic()
        measured = self._measure(now)
        application = container.supervisor.application()
        if application is None:
            return idle.Busy(now + AGAIN, "the application is starting or ending")
        tree = processes.tree(application)
        table = sockets.table(application, talks=True)
        inodes = processes.socket_inodes(tree)
        container.ports, asking = listening(container, table, inodes)
        policy = container.record.policy
        if because := policy.unreachable(container.ports, asking) or crowded(container.ports):
            self._no_port = min(NO_PORT_LOOK[1], self._no_port * 2)
            return idle.Busy(now + self._no_port, because)
        self._no_port = NO_PORT_LOOK[0]
        seen, declared = Traffic(container, table, inodes), container.declares()
        facts = idle.Facts(
            since=container.active,
            woke=container.woke,
            pinged=container.life.cause == "tcp-ping",
            slept=container.woke - container.quiet,
            seen=seen.seen(),
            ignored=seen.ignored(),
            kubelet=seen.kubelet(),
            unsent=seen.unsent(ignored=False),
            unsent_ignored=seen.unsent(ignored=True),
            opening=seen.opening(),
            inbound=seen.inbound(),
            sessions=len(container.sessions()),
            worked=container.meter.busy,
            work=container.meter.words,
            measured=measured,
            ready=declared is None or declared.ready,
            leaving=declared is not None and declared.leaving,
            spared=self._spared,
        )
        decision = idle.decide(now, facts, container.record.policy)
        spares = isinstance(decision, idle.Busy) and decision.spares
        self._spared = (self._spared or now) if spares else 0.0
        return decision

    def _measure(self, now: float) -> bool:
        """Note how much CPU it has used since the last look; False if there is no telling yet."""
        container = self._container
        threshold = container.record.policy.cpu_threshold
        used = cpu.usage(container.record.pid) if threshold else None
        if used is not None:
            container.meter.look(now, used, threshold=threshold, since=container.active)
        return used is None or container.meter.measured > container.active
