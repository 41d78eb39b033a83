"""All managed containers of the node: takes the plugin's reports, and starts an actor for each.

A container is taken over when its record names a living supervisor, whatever state that is in (`adoption`), so that
the daemon can be killed at any time and its successor goes on.
"""

import asyncio
import concurrent.futures
import dataclasses
import logging
import os
import time
from collections.abc import Iterable
from typing import Any

from checkpointer import (
    containers,
    explain,
    kinds,
    leftovers,
    lifecycle,
    metrics,
    processes,
    retirement,
    view,
    vouching,
)
from checkpointer.actor import GOING, Actor
from checkpointer.answers import Answers
from checkpointer.arrivals import Arrivals, Arrived
from checkpointer.cluster import Cluster, Silent
from checkpointer.container import Container
from checkpointer.engine import Engine
from checkpointer.farewell import Farewell
from checkpointer.history import History
from checkpointer.leftovers import Leftovers
from checkpointer.lifecycle import Mode, State
from checkpointer.policy import Policy
from checkpointer.roster import Roster
from redirector.ignored import Ignored

log = logging.getLogger(__name__)

FINISH = 20.0
"""Seconds for which a daemon that is to stop goes on waking, while pages of earlier wakes come in; then it only
finishes what is under way. Less than the grace period that Kubernetes gives by default."""


class Node:
    """Everything this daemon manages.

    Args:
        engine: Datapath, store, zygotes and exec watch.
        records: What is known of containers, on disk.
        workers: Number of threads for what blocks.
    """

    def __init__(self, engine: Engine, records: containers.Records, workers: int) -> None:
        self.engine = engine
        self.since = time.time()
        self.reported = 0.0
        self.roster = Roster(records)
        self._actors: dict[str, Actor] = {}
        self._pidfds: dict[str, int] = {}
        self._pool = concurrent.futures.ThreadPoolExecutor(workers, "worker")
        self._loop = asyncio.get_running_loop()
        self.history = History()
        self.cluster: Cluster = Silent()
        self._tasks: set[asyncio.Task[None]] = set()
        self.swept = False  # set once the plugin has said who there is
        self.answers = Answers(self.roster, self._actors, lambda: self.cluster)
        self._farewell = Farewell(engine.datapath, self._pool)
        self._arrivals = Arrivals(
            engine,
            self._pool,
            self.roster,
            self._farewell,
            self._actors,
            self._arrived,
            self._vanished,
        )
        self._leftovers = Leftovers(
            engine, self._pool, self.roster, self._arrivals, self._farewell
        )

    # --- taking over -------------------------------------------------------------------------------------------------

    def load(self) -> None:
        """Begin to take over what the last daemon left."""
        for record in self.roster.load():
            if record.reason or not record.pid:
                self.roster.note(record)
            elif record.alive():
                self._know(record)
            else:
                # Its successor in the same pod has the same ports: it must get its packets.
                self.engine.datapath.abandon(record.sandbox_id, record.id)
                self.roster.drop(record.id)

    async def loaded(self) -> None:
        """Wait until every recorded container has an actor or is gone."""
        await self._arrivals.over()
        if retired := self.engine.zygotes.retire():
            log.info("zygotes.retired", extra={"pids": retired})

    def report(
        self, reported: Iterable[Any], removed: Iterable[str], present: Iterable[str] | None
    ) -> None:
        """Take the plugin's word on which containers there are; state is never taken from it.

        Args:
            reported: What is new or has changed.
            removed: Ids of what is gone.
            present: If this ends a complete report, the ids of all there are; else None.
        """
        self.reported = time.time()
        seen = set(present or ())
        for message in reported:
            seen.add(message.id)
            self.roster.note_name(message.uid, message.name)
            if message.state != "stopped":
                try:
                    self._reported(message)
                except Exception:
                    # The others' are not lost for it, nor is the report sent again for ever.
                    log.exception("report.broke", extra={"container": message.id})
        gone = set(removed) | (set() if present is None else self.roster.ids() - seen)
        for container_id in gone:
            # Whoever has an actor is watched by its own pidfd; the plugin's word is not needed for its end.
            if container_id not in self._actors and container_id not in self._arrivals:
                record = self.roster.drop(container_id)
                if record is not None and record.pid:
                    # Its take-over failed half-way: nobody else knows what there is of it by now.
                    self._task(self._clear_away(record))
                    self._forget_pod(record.sandbox_id)
        self.roster.forget_names()
        if present is not None and not self.swept:
            self.swept = True
            self._task(self._leftovers.clear())
            self._loop.call_later(leftovers.EVERY, self._leftovers.bound)

    def _reported(self, message: Any) -> None:
        try:
            start_time = processes.start_time(message.pid) if message.managed else 0
        except ProcessLookupError:
            return  # it has ended meanwhile; that is on its way to us
        record = containers.Record(
            id=message.id,
            sandbox_id=message.sandbox_id,
            pod=message.pod,
            namespace=message.namespace,
            uid=message.uid,
            name=message.name,
            pid=message.pid if message.managed else 0,
            start_time=start_time,
            reason="" if message.managed else message.reason,
            kind="" if message.managed else message.kind or "other",
            policy=Policy.of(message.policy),
        )
        actor = self._actors.get(record.id)
        if actor is not None:
            self._renew(actor, record.policy)
        elif self.roster.get(record.id) != record:
            self._know(record)

    def _renew(self, actor: Actor, policy: Policy) -> None:
        """Another version of the plugin may make more of the same annotations; that holds from now on."""
        container = actor.container
        if policy != container.record.policy:
            container.record = dataclasses.replace(container.record, policy=policy)
            container.pod.ignore(Ignored.of(policy.ignore_from))
            container.pod.tell_calls(policy.probe_detection)
            self.roster.put(container.record)
            actor.renewed()

    def _know(self, record: containers.Record) -> None:
        self.roster.put(record)
        if record.reason:
            self._tell(record)
        self._arrivals.begin(record)

    def _arrived(self, arrived: Arrived) -> None:
        container = arrived.container
        record = container.record
        self.roster.note(record)  # without the reason of an earlier try
        container.declares = lambda: self.cluster.declared(container.record)
        actor = Actor(container, self.engine, self._pool, self._observe, self._ended)
        self._actors[record.id] = actor
        self._pidfds[record.id] = arrived.pidfd
        self.engine.execs.know(record.pid, record.id)
        self._loop.add_reader(arrived.pidfd, self._exited, record.id)
        self._observe(container, container.life.state)
        actor.watch()
        for event in arrived.events:
            actor.post(event)

    def _vanished(self, record: containers.Record) -> None:
        """It ended before it could be taken over."""
        known = self.roster.get(record.id)
        if known is not None and (known.pid, known.start_time) == (record.pid, record.start_time):
            self.roster.drop(record.id)
            self._task(self._clear_away(record))
        self._forget_pod(record.sandbox_id)

    async def _clear_away(self, record: containers.Record) -> None:
        """Remove what an earlier daemon, or a take-over that failed half-way, has left of a container that has ended."""
        run, ids = self._loop.run_in_executor, (record.sandbox_id, record.id)
        # Its successor in the same pod has the same ports.
        await run(self._pool, self.engine.datapath.abandon, *ids)
        await run(self._pool, self.engine.store.drop, record.id)

    def _exited(self, container_id: str) -> None:
        pidfd = self._pidfds.pop(container_id)
        self._loop.remove_reader(pidfd)
        os.close(pidfd)
        self._actors[container_id].post(lifecycle.Exited())

    def _ended(self, container: Container) -> None:
        record = container.record
        self.engine.execs.forget(record.pid)
        self.roster.drop(record.id)
        actor = self._actors.pop(record.id)
        self._forget_pod(record.sandbox_id)
        self._task(actor.close())

    def _forget_pod(self, sandbox_id: str) -> None:
        """Let a pod go unless something of it is managed, or is being taken over at this moment."""
        if not self.roster.manages(sandbox_id):
            self._farewell.forget(sandbox_id)
            self.engine.pod_locks.pop(sandbox_id, None)

    def _task(self, job: Any) -> None:
        task = self._loop.create_task(job)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def retire(self, timeout: float) -> list[Any]:
        """Wake all, put nothing to sleep any more, and take what is ours off the pods in which everything is awake.

        Returns:
            Info of each container. What is not RUNNING did not wake in time and is as it was: asked again, it is tried
            again.
        """
        await self._arrivals.close()
        actors = list(self._actors.values())
        left = {
            actor.container.record.sandbox_id for actor in await retirement.wake(actors, timeout)
        }
        infos = [self.answers.info(actor.container.record) for actor in actors]
        leaving = [actor for actor in actors if actor.container.record.sandbox_id not in left]
        await asyncio.gather(*(self._dismiss(actor) for actor in leaving))
        for sandbox_id in set(self.engine.datapath.sandboxes()) - left:
            self._farewell.forget(sandbox_id)
        await self._farewell.all_over()
        return infos

    async def _dismiss(self, actor: Actor) -> None:
        """Have nothing to do with a container any more, which runs on."""
        record = actor.container.record
        await actor.close()
        if self._actors.pop(record.id, None) is None:
            return  # it has ended meanwhile
        pidfd = self._pidfds.pop(record.id, None)
        if pidfd is not None:
            self._loop.remove_reader(pidfd)
            os.close(pidfd)
        self.engine.execs.forget(record.pid)
        known = dataclasses.replace(record, reason=retirement.REASON, kind=kinds.RETIRED)
        self.roster.note(known)
        self.history.add(self.answers.info(known), State.RUNNING.value, time.time())

    def wanted(self, container_id: str, cause: str) -> bool:
        """Somebody waits at a door of a container; from any thread. False if it is nobody we know."""
        actor = self._actors.get(container_id)
        if actor is None:
            return False
        state = actor.container.life.state
        if cause == "signal" and state in {State.RUNNING, State.GONE}:
            return False
        actor.post_soon(lifecycle.WakeAsked(cause))
        return True

    async def close(self) -> None:
        """Finish what is being done, wakes that are asked for meanwhile included; the maps go on holding what sleeps."""
        actors = list(self._actors.values())
        for actor in filter(_cannot_wait, actors):
            actor.post(lifecycle.WakeAsked(GOING))
            await actor.caught_up()
        for actor in actors:
            actor.retire()
        try:
            async with asyncio.timeout(FINISH):
                await asyncio.gather(*(actor.at_rest() for actor in actors))
        except TimeoutError:
            log.info("stopping.late", extra={"after": FINISH})
        await asyncio.gather(*(actor.close() for actor in actors))
        await self._farewell.all_over()
        self._pool.shutdown()

    def vouch(self, *, able: bool, anew: bool) -> None:
        """See what the kubelet is to be told of those that sleep; from any thread. Blocking.

        Args:
            able: Whether they could be woken, as far as the node is concerned.
            anew: Who tells it is another one.
        """
        actors = list(self._actors.values())
        vouching.look((actor.container for actor in actors), able=able, anew=anew)

    def view(self) -> metrics.View:
        """What a scrape sees; from any thread."""
        managed = [actor.container for actor in list(self._actors.values())]
        seen = view.view(self.engine, self.roster, managed, plugin=self.plugin_connected())
        return dataclasses.replace(seen, api=self.cluster.view())

    def plugin_connected(self) -> bool:
        """Whether the plugin has reported since this daemon started."""
        return self.reported > 0

    def _observe(self, container: Container, before: State) -> None:
        if container.hold is not None and container.life.reason:
            self._pool.submit(vouching.look, [container], able=True, anew=False)
        if container.life.state is State.ASLEEP and container.mode is Mode.OFF:
            self._note_ports(container)
        self._tell(container.record, before.value)

    def _note_ports(self, container: Container) -> None:
        ports = tuple(sorted(container.ports))
        if ports != container.record.ports:
            container.record = dataclasses.replace(container.record, ports=ports)
            self.roster.put(container.record)

    def _tell(self, record: containers.Record, before: str = "") -> None:
        actor = self._actors.get(record.id)
        info = explain.info(record, actor.container if actor else None)
        self.history.add(info, before, time.time())


def _cannot_wait(actor: Actor) -> bool:
    """Whether it sleeps, and would be restarted before there is a daemon again."""
    container = actor.container
    answered = container.hold is not None and container.hold.responder > 0
    resting = container.life.state in lifecycle.AT_REST
    return resting and vouching.cannot_wait(container.declares(), answered=answered)
