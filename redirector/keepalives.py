"""When the connections of a sleeping container are due for a keepalive: what the kernel's timer did for its sockets.

Only decides; `Hold.keep_alive` sends.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

from redirector.endpoints import Keepalive

K = TypeVar("K", bound=Hashable)


@dataclass(slots=True)
class _Timer:
    """One connection.

    Attributes:
        wish: What the application has asked for.
        heard: When the peer last said anything, monotonic seconds.
        tries: Probes since then.
    """

    wish: Keepalive
    heard: float
    tries: int = 0


class Keepalives(Generic[K]):
    """The timers of one container. A first keepalive is due at once: the image does not say how long ago the last was.

    Like tcp_keepalive_timer (net/ipv4/tcp_timer.c): after `idle` seconds without a word from the peer, then every
    `interval` seconds. Where the kernel gives the connection up, after `count` of them, these go on every `idle`
    seconds: to end a connection is for the kernel of the restored socket.
    """

    def __init__(self, wishes: Mapping[K, Keepalive], now: float) -> None:
        self._timers = {key: _Timer(wish, now - wish.idle) for key, wish in wishes.items()}
        self._order = [(now, number, key) for number, key in enumerate(wishes)]

    def __contains__(self, key: K) -> bool:
        return key in self._timers

    def heard(self, key: K, now: float) -> None:
        """Note that the peer lives."""
        if timer := self._timers.get(key):
            timer.heard, timer.tries = max(timer.heard, now), 0

    def end(self, key: K) -> None:
        """Leave a connection alone: the peer has reset it."""
        self._timers.pop(key, None)

    def due(self, now: float, most: int, heard: Callable[[K], float]) -> list[K]:
        """Return the connections, `most` at once, whose peers are to be sent a keepalive now.

        Args:
            now: monotonic seconds.
            most: the rest is due at the next call.
            heard: tells when a connection's peer was last heard elsewhere.
        """
        found: list[K] = []
        while self._order and self._order[0][0] <= now and len(found) < most:
            _, number, key = heapq.heappop(self._order)
            timer = self._timers.get(key)
            if timer is None:
                continue
            last = heard(key)
            if last > timer.heard:
                self.heard(key, last)
            after = timer.heard + timer.wish.idle
            if after <= now:
                found.append(key)
                timer.tries += 1
                again = timer.wish.interval if timer.tries < timer.wish.tries else timer.wish.idle
                after = now + max(again, 1)
            heapq.heappush(self._order, (after, number, key))
        return found

    def next(self) -> float | None:
        """Return when something may be due: monotonic seconds, None when never."""
        return self._order[0][0] if self._timers and self._order else None
