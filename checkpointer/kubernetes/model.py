"""What the daemon knows of its containers, as far as the cluster is told: the latest word on each, by pod."""

from __future__ import annotations

import dataclasses
import math
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from checkpointer import kinds
from checkpointer.lifecycle import State

RUNNING, SCALED_DOWN = "RUNNING", "SCALED_DOWN"
"""The original's words."""

_WORDS: Mapping[str, str] = {
    State.RUNNING: RUNNING,
    State.SLEEPING: RUNNING,
    State.FROZEN: RUNNING,  # its memory is where it was
    State.ASLEEP: SCALED_DOWN,
    State.WAKING: SCALED_DOWN,
}

SETTLE = 5.0
"""Seconds for which a container that has ended is told as before: its successor may be there by then."""


@dataclasses.dataclass(frozen=True, slots=True)
class Told:
    """The latest word on a managed container.

    Attributes:
        id: containerd's id; the container's successor in its pod has another.
        status: RUNNING or SCALED_DOWN.
        until: Monotonic seconds until which that holds.
    """

    id: str
    status: str
    until: float = math.inf


class Model:
    """Managed containers by pod; from any thread.

    Args:
        clock: Monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._pods: dict[str, dict[str, Told]] = {}
        self._complete = False

    def load(self, infos: Iterable[Any], *, complete: bool) -> set[str]:
        """Take all there is, and return the uids of pods of which that may be news.

        Args:
            infos: Every container that the daemon knows.
            complete: The plugin has said who there is: what is not among these is not managed.
        """
        pods: dict[str, dict[str, Told]] = {}
        for info in infos:
            if status := _WORDS.get(info.state, ""):
                pods.setdefault(info.uid, {})[info.container] = Told(info.id, status)
        with self._lock:
            touched = {uid for uid in {*pods, *self._pods} if pods.get(uid) != self._pods.get(uid)}
            self._pods = pods
            self._complete = complete
        return touched

    def note(self, info: Any) -> bool:
        """Take the latest word on one container; False if it is no news for the cluster, or not yet."""
        status = _WORDS.get(info.state, "")
        with self._lock:
            known = self._pods.get(info.uid, {}).get(info.container)
            if status:
                told = Told(info.id, status)
                self._pods.setdefault(info.uid, {})[info.container] = told
                return told != known
            if known is None or known.id != info.id:
                return False  # nobody was told of it, or its successor is there already
            until = self._clock() + (0.0 if info.kind == kinds.RETIRED else SETTLE)
            self._pods[info.uid][info.container] = dataclasses.replace(known, until=until)
            return True

    def settled(self, uid: str) -> float:
        """Seconds until what is told of a pod changes by itself; 0 if it does not."""
        with self._lock:
            ends = (told.until for told in self._pods.get(uid, {}).values())
            first = min(ends, default=math.inf)
            return max(0.01, first - self._clock()) if first < math.inf else 0.0

    def statuses(self, uid: str) -> Mapping[str, str] | None:
        """RUNNING or SCALED_DOWN of each managed container of a pod; None while nobody can tell."""
        with self._lock:
            if uid not in self._pods:
                return {} if self._complete else None
            now = self._clock()
            found = {name: told for name, told in self._pods[uid].items() if told.until > now}
            if found:
                self._pods[uid] = found
            else:
                del self._pods[uid]
            return {name: told.status for name, told in found.items()}
