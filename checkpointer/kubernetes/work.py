"""What has to be looked at, and when: each key by one thread at a time, and as often as something is new.

Like the work queues of Kubernetes' own controllers. Failures come again later and later, with jitter; while the server
is away nothing is taken, or each pod would ask whether it is back.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Hashable
from typing import Generic, TypeVar

import tenacity

K = TypeVar("K", bound=Hashable)

_PAUSES = tenacity.wait_exponential(multiplier=0.25, max=30.0) + tenacity.wait_random(0.0, 0.5)


def pause(failures: int) -> float:
    """Seconds before the next try after so many failures in a row (at least one)."""
    state = tenacity.RetryCallState(tenacity.Retrying(), None, (), {})
    state.attempt_number = failures
    return float(_PAUSES(state))


class Work(Generic[K]):
    """Keys by the time at which they are due; from any thread."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._due: dict[K, float] = {}
        self._taken: set[K] = set()
        self._failures: dict[K, int] = {}
        self._held_until = 0.0
        self._closed = False

    def add(self, key: K, delay: float = 0.0) -> None:
        """Have a key looked at, so many seconds from now; earlier if it is due earlier already."""
        at = time.monotonic() + delay
        with self._changed:
            self._due[key] = min(at, self._due.get(key, at))
            self._changed.notify()

    def take(self) -> K | None:
        """Wait for the next key, and have it until `done`; None once it is over."""
        with self._changed:
            while not self._closed:
                now = time.monotonic()
                at, key = min(
                    ((at, key) for key, at in self._due.items() if key not in self._taken),
                    key=lambda found: found[0],
                    default=(None, None),
                )
                if at is None or key is None:
                    self._changed.wait()
                elif (late := max(at, self._held_until) - now) > 0:
                    self._changed.wait(late)
                else:
                    del self._due[key]
                    self._taken.add(key)
                    return key
            return None

    def done(self, key: K) -> None:
        """It has been looked at."""
        with self._changed:
            self._taken.discard(key)
            self._failures.pop(key, None)
            self._changed.notify()

    def failed(self, key: K) -> float:
        """It has to be looked at again, later; return in how many seconds."""
        with self._changed:
            self._taken.discard(key)
            self._failures[key] = self._failures.get(key, 0) + 1
            late = pause(self._failures[key])
        self.add(key, late)
        return late

    def hold(self, seconds: float) -> None:
        """Take nothing for a while."""
        with self._changed:
            self._held_until = max(self._held_until, time.monotonic() + seconds)

    def release(self) -> None:
        """The server is back: what waits for that need not wait any longer."""
        with self._changed:
            now = time.monotonic()
            self._held_until = 0.0
            for key in self._failures:
                if key in self._due:
                    self._due[key] = min(now, self._due[key])
            self._changed.notify_all()

    def drop(self, key: K) -> None:
        """It need not be looked at any more."""
        with self._changed:
            self._due.pop(key, None)
            self._failures.pop(key, None)

    def __len__(self) -> int:
        """How many are due, or being looked at, or are waiting for another try."""
        with self._changed:
            now = time.monotonic()
            due = {k for k, at in self._due.items() if at <= now or k in self._failures}
            return len(due | self._taken)

    def close(self) -> None:
        """Let all who wait go."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
