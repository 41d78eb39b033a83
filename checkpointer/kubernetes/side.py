"""The Kubernetes side of the daemon, put together: who listens to the daemon, who to the API server, who does the work.

The daemon's event loop only notes what has happened. Threads do the rest, because the official client is synchronous;
what they need of the daemon is a copy (`model`), so that neither ever waits for the other.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import Mapping
from typing import Any

from checkpointer import api
from checkpointer.apiview import ApiView
from checkpointer.containers import Record
from checkpointer.declared import Declared
from checkpointer.kubernetes import errors, rights, shares, telling
from checkpointer.kubernetes.client import Client
from checkpointer.kubernetes.model import Model
from checkpointer.kubernetes.pods import Pod
from checkpointer.kubernetes.reconciler import Reconciler
from checkpointer.kubernetes.recorder import Recorder, Series
from checkpointer.kubernetes.rights import Feature
from checkpointer.kubernetes.taint import AGAIN, Taint
from checkpointer.kubernetes.telling import Event
from checkpointer.kubernetes.watch import Watch
from checkpointer.kubernetes.work import Work, pause
from checkpointer.lifecycle import State
from checkpointer.node import Node
from checkpointer.settings import Settings

log = logging.getLogger(__name__)

WORKERS = 4
"""Threads that change things."""

LAST = 3.0
"""Seconds that a daemon on its way out still works on what has happened."""

Key = str | Series | Taint
"""A pod's uid, an event, or what keeps pods off the node."""


class Side:
    """Everything that the cluster is told by one daemon.

    Args:
        settings: Which of it is wanted.
        client: To the API server.
    """

    def __init__(self, settings: Settings, client: Client) -> None:
        self._client = client
        labels, events, scaling, taint = (
            Feature(name, f"zeropod-{name}", wanted=wanted)
            for name, wanted in (
                ("status-labels", settings.status_labels),
                ("status-events", settings.status_events),
                ("in-place-scaling", settings.in_place_scaling),
                ("startup-taint", settings.startup_taint),
            )
        )
        self._labels, self._events, self._scaling, self._arrival = labels, events, scaling, taint
        self._taint = Taint(settings.node_name)
        self._model = Model()
        self._work: Work[Key] = Work()
        self._watch = Watch(client, settings.node_name, self._work.add, self._heard)
        self._recorder = Recorder(
            client.request, settings.node_name, self._work.add, self._sidecar
        )
        self._reconciler = Reconciler(client, self._watch, self._model, labels, scaling, self._say)
        self._threads = [
            threading.Thread(target=self._serve, name=f"api {number}", daemon=True)
            for number in range(WORKERS)
        ]
        self._outage = 0
        self._list_denied = False
        self._following: asyncio.Task[None] | None = None
        self._arriving: asyncio.Task[None] | None = None

    # --- the daemon's loop -------------------------------------------------------------------------------------------

    def start(self, node: Node) -> None:
        """Begin to follow a node; from its event loop."""
        wanted = [f.name for f in self._features if f.wanted]
        log.info("kubernetes", extra={"features": " ".join(wanted)})
        self._load(node)
        self._following = asyncio.get_running_loop().create_task(
            self._follow(node, node.history.last, complete=node.swept), name="kubernetes"
        )
        if self._arrival.wanted:
            task = self._wait_for_plugin(node)
            self._arriving = asyncio.get_running_loop().create_task(task, name="startup taint")
        if self._labels.wanted or self._scaling.wanted:
            self._watch.start()
        for thread in self._threads:
            thread.start()

    async def close(self) -> None:
        """Stop; what is not done by then is for the next daemon, which compares what is with what should be."""
        for task in filter(None, (self._following, self._arriving)):
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LAST):
                while len(self._work) and not self._outage:  # noqa: ASYNC110 - threads do it
                    await asyncio.sleep(0.05)
        self._work.close()
        await asyncio.get_running_loop().run_in_executor(None, self._end)

    async def _follow(self, node: Node, last: int, *, complete: bool) -> None:
        """Every transition of the daemon's containers after the last that is known, from its own history."""
        while True:
            transitions, newest = await node.history.after(last)
            missed = bool(transitions) and transitions[0].sequence > last + 1
            if missed or newest < last:
                self._load(node)  # more has happened than is remembered
            elif complete is not node.swept:
                complete = True
                self._load(node)  # from now on what is not known is not managed
            for transition in transitions:
                try:
                    self._note(transition)
                except Exception:
                    log.exception("transition.broke", extra={"pod": transition.info.pod})
            last = newest

    async def _wait_for_plugin(self, node: Node) -> None:
        """Pods may come as soon as the plugin has said who there is."""
        while not node.swept:  # noqa: ASYNC110 - once in a daemon's life
            await asyncio.sleep(0.2)
        self._work.add(self._taint)

    def _load(self, node: Node) -> None:
        found = node.answers.infos(api.m.Query())
        for uid in self._model.load(found, complete=node.swept):
            self._work.add(uid)
        for pod in self._watch.pods():
            self._work.add(pod.uid)

    def _note(self, transition: Any) -> None:
        info = transition.info
        if info.state == State.WAKING and (pod := self._watch.get(info.uid)) is not None:
            shares.lift(pod, self._reconciler.lowered(info.uid), info.container, info.pid)
        if self._model.note(info):
            self._work.add(info.uid)
        event = telling.tell(transition.before, info)
        if event is not None and self._events.on():
            who = Series(info.uid, info.namespace, info.pod, info.container, event.reason)
            self._recorder.note(who, event)

    # --- threads -----------------------------------------------------------------------------------------------------

    def _sidecar(self, series: Series) -> bool:
        pod = self._watch.get(series.uid)
        return pod is not None and any(
            each.sidecar and each.name == series.container for each in pod.containers
        )

    def _say(self, pod: Pod, container: str, event: Event) -> None:
        if self._events.on():
            who = Series(pod.uid, pod.namespace, pod.name, container, event.reason)
            self._recorder.note(who, event)

    def _heard(self, error: errors.ApiError | None) -> None:
        """How the watch is."""
        if error is None:
            self._outage = 0
            self._work.release()
        for feature in (self._labels, self._scaling):
            if isinstance(error, errors.Denied) and feature.wanted:
                feature.deny(error)
            elif error is None and self._list_denied:
                feature.allow()
        self._list_denied = isinstance(error, errors.Denied)

    def _serve(self) -> None:
        while (key := self._work.take()) is not None:
            try:
                again = self._do(key)
            except errors.Unreachable as error:
                self._outage += 1
                if self._outage == 1:
                    log.warning(
                        "api.failed", extra={"reason": error.message, "status": error.status}
                    )
                self._work.failed(key)
                self._work.hold(error.after or pause(self._outage))
            except errors.Conflict as error:
                late = self._work.failed(key)
                log.debug("api.conflict", extra={"reason": error.message, "again": late})
            except Exception as error:
                late = self._work.failed(key)
                ours = None if isinstance(error, errors.ApiError) else error
                log.warning(
                    "api.broke", extra={"reason": str(error), "again": late}, exc_info=ours
                )
            else:
                self._outage = 0
                self._work.done(key)
                if again:
                    self._work.add(key, again)

    def _do(self, key: Key) -> float:
        if isinstance(key, Series):
            return self._post(key)
        if isinstance(key, Taint):
            return self._arrive(key)
        again, settled = self._reconciler.look(key), self._model.settled(key)
        # What is off now may be on then; nobody else would look.
        off = rights.AGAIN + 1.0 if any(self.features().values()) else 0.0
        return min(filter(None, (again, settled, off)), default=0.0)

    def _post(self, series: Series) -> float:
        if not self._events.on():
            self._recorder.drop(series)
            return 0.0
        try:
            return self._recorder.post(series)
        except errors.Denied as denied:
            self._events.deny(denied)
            self._recorder.drop(series)
            return 0.0

    def _arrive(self, taint: Taint) -> float:
        try:
            if self._arrival.on() and taint.take_off(self._client):
                log.info("taint.removed", extra={"node": taint.node})
        except errors.Denied as denied:
            self._arrival.deny(denied)
        return AGAIN

    def _end(self) -> None:
        self._watch.close()
        for thread in self._threads:
            thread.join(1.0)

    # --- what others see ---------------------------------------------------------------------------------------------

    @property
    def _features(self) -> tuple[Feature, ...]:
        return self._labels, self._events, self._scaling, self._arrival

    def features(self) -> Mapping[str, str]:
        """Each feature that is wanted, and why it is off; "" if it is on. From any thread."""
        return {f.name: f.reason for f in self._features if f.wanted}

    def remark(self, record: Record) -> str:
        """What the owner of a container should know of its requests; "" if nothing."""
        return self._reconciler.remark(record.uid, record.name)

    async def caught_up(self, node: Node, timeout: float) -> bool:
        """Wait until the cluster knows what the node knows; False if that takes longer. From the event loop."""
        self._load(node)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                while len(self._work):  # noqa: ASYNC110 - threads do it
                    await asyncio.sleep(0.05)
        return not len(self._work)

    def declared(self, record: Record) -> Declared | None:
        """What a container's pod declares of it; None while the API server has not told."""
        pod = self._watch.get(record.uid)
        return pod.declared.get(record.name) if pod is not None else None

    def pending(self) -> int:
        """What is still to be done, requests to the API server to come."""
        return len(self._work)

    def view(self) -> ApiView:
        """What a scrape sees; from any thread."""
        return ApiView(
            requests=dict(self._client.counts),
            features={name: not reason for name, reason in self.features().items()},
            synced=self._watch.synced if self._labels.wanted or self._scaling.wanted else None,
            pending=len(self._work),
            resizes=dict(self._reconciler.resizes),
            unresized=self._reconciler.pending(),
        )
