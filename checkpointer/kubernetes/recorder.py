"""Events, so that a container that sleeps and wakes all day is one line with a count and not a thousand.

What happens for the first time is told at once. What happens again is added to the same Event: after half a minute at the
earliest, and later and later for as long as it goes on, since each write is one in the cluster's store. All events of the
node share a budget, below which they wait.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import logging
import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from checkpointer.kubernetes import client, errors
from checkpointer.kubernetes.telling import Event

log = logging.getLogger(__name__)

SPACING, LONGEST = 30.0, 600.0
"""Seconds between two changes of one Event: the first two, and at the most; each is twice the last."""

LASTS = 2700.0
"""Seconds after which it is told anew: the API server forgets an Event after an hour."""

MOST = 2000
"""Events remembered; those of the longest silence are forgotten first."""

PER_SECOND, BURST = 1.0, 50.0
"""All Events of the node. (client-go gives a component one in five minutes and object, and a burst of 25.)"""

COMPONENT, REPORTER = "zeropod", "zeropod.ctrox.dev/manager"
"""Who says so: for people, and as the original has it."""


class Series(NamedTuple):
    """Who and what an Event is about."""

    uid: str
    namespace: str
    pod: str
    container: str
    reason: str


@dataclasses.dataclass(slots=True)
class _Told:
    event: Event
    first: float
    last: float
    count: int = 0
    name: str = ""  # of the object; "" before there is one
    posted: int = 0  # the count that it has
    posted_at: float = 0.0
    spacing: float = SPACING

    def late(self, now: float) -> float:
        """Seconds before its Event may be changed."""
        return max(0.0, self.posted_at + self.spacing - now) if self.name else 0.0


class Budget:
    """So many a second, with a reserve for bursts."""

    def __init__(self, rate: float, burst: float, clock: Callable[[], float]) -> None:
        self._rate, self._burst, self._clock = rate, burst, clock
        self._left, self._at = burst, clock()

    def take(self) -> float:
        """Take one; the seconds to wait if there is none."""
        now = self._clock()
        self._left = min(self._burst, self._left + (now - self._at) * self._rate)
        self._at = now
        if self._left < 1.0:
            return (1.0 - self._left) / self._rate
        self._left -= 1.0
        return 0.0


class Recorder:
    """Notes what happens and posts it when it is told to; from any thread.

    Args:
        request: Asks the API server.
        node: Where this is.
        due: Called with a series and the seconds until `post` is to be called for it.
        sidecar: Whether a series is about a container that stands among its pod's init containers; False if that is not known.
        clock: Seconds since the epoch.
    """

    def __init__(
        self,
        request: Callable[..., dict[str, Any]],
        node: str,
        due: Callable[[Series, float], None],
        sidecar: Callable[[Series], bool] = lambda _: False,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._request = request
        self._node = node
        self._due = due
        self._sidecar = sidecar
        self._clock = clock
        self._lock = threading.Lock()
        self._told: dict[Series, _Told] = {}
        self._budget = Budget(PER_SECOND, BURST, clock)

    def note(self, series: Series, event: Event) -> None:
        """It happened, once more or for the first time."""
        now = self._clock()
        with self._lock:
            # To the end: the dictionary is in the order of the last time.
            told = self._told.pop(series, None)
            if told is None or now - told.last > LASTS:
                told = _Told(event, first=now, last=now)
            if now - told.last > LONGEST:
                told.spacing = SPACING  # it had stopped
            told.event, told.last = event, now
            told.count += 1
            self._told[series] = told
            while len(self._told) > MOST:
                del self._told[next(iter(self._told))]
            late = told.late(now)
        self._due(series, late)

    def post(self, series: Series) -> float:
        """Bring the API server up to date; the seconds to wait if that has to be later.

        Raises:
            errors.ApiError: It was not done.
        """
        with self._lock:
            told = self._told.get(series)
            if told is None or told.count == told.posted:
                return 0.0
            if late := told.late(self._clock()) or self._budget.take():
                return late
            event, count, name, first, last = (
                told.event,
                told.count,
                told.name,
                told.first,
                told.last,
            )
        try:
            name = self._patch(series, event, count, name, last) or self._create(
                series, event, count, first, last
            )
        except (errors.Rejected, errors.NotFound, errors.Conflict) as error:
            # A namespace that goes, a quota, a webhook: nothing that another try would mend.
            log.info(
                "event.refused",
                extra={"pod": f"{series.namespace}/{series.pod}", "reason": error.message},
            )
        with self._lock:
            if told.posted:
                told.spacing = min(LONGEST, 2 * told.spacing)
            told.name, told.posted, told.posted_at = name, count, self._clock()
        return 0.0

    def drop(self, series: Series) -> None:
        """Say no more of it."""
        with self._lock:
            self._told.pop(series, None)

    def _patch(self, series: Series, event: Event, count: int, name: str, last: float) -> str:
        """Add to an Event that there is; "" if there is none."""
        if not name:
            return ""
        body = {"count": count, "lastTimestamp": _stamp(last), "message": event.message}
        try:
            self._request(
                "PATCH",
                f"{_path(series)}/{name}",
                verb="patch",
                resource="events",
                body=body,
                content=client.MERGE,
            )
        except errors.NotFound:
            return ""  # it was too old, or somebody removed it
        return name

    def _create(self, series: Series, event: Event, count: int, first: float, last: float) -> str:
        answer = self._request(
            "POST",
            _path(series),
            verb="create",
            resource="events",
            body=self._object(series, event, count, first, last),
        )
        return str(answer["metadata"]["name"])

    def _object(
        self, series: Series, event: Event, count: int, first: float, last: float
    ) -> dict[str, Any]:
        return {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {
                "generateName": "zeropod-status-event-",
                "namespace": series.namespace,
            },
            "involvedObject": {
                "apiVersion": "v1",
                "kind": "Pod",
                "namespace": series.namespace,
                "name": series.pod,
                "uid": series.uid,
                **self._field(series),
            },
            "reason": event.reason,
            "action": event.reason,
            "message": event.message,
            "type": "Warning" if event.warning else "Normal",
            "count": count,
            "firstTimestamp": _stamp(first),
            "lastTimestamp": _stamp(last),
            "source": {"component": COMPONENT, "host": self._node},
            "reportingComponent": REPORTER,
            "reportingInstance": self._node,
        }

    def _field(self, series: Series) -> dict[str, str]:
        """Which part of the pod; none if it is about the whole."""
        if not series.container:
            return {}
        among = "initContainers" if self._sidecar(series) else "containers"
        return {"fieldPath": f"spec.{among}{{{series.container}}}"}


def _path(series: Series) -> str:
    return f"/api/v1/namespaces/{series.namespace}/events"


def _stamp(seconds: float) -> str:
    moment = dt.datetime.fromtimestamp(seconds, dt.UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")
