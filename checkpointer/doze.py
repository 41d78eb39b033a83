"""A dry run's would-be sleeps: the one that lasts, and what was counted. Plain numbers; pure."""

import dataclasses
from collections import Counter

from redirector.endpoints import Connection


@dataclasses.dataclass(frozen=True, slots=True)
class Doze:
    """A would-be sleep.

    Attributes:
        since: Monotonic seconds: traffic after this ends it.
        bytes: Memory that it would have given back.
        connections: Those of its clients that were open; others have come since.
    """

    since: float
    bytes: int
    connections: frozenset[Connection]


@dataclasses.dataclass(slots=True)
class Dozes:
    """Of one container, since the daemon took it over.

    Attributes:
        now: The one that lasts; None while it would be awake.
        sleeps: How many there were.
        wakes: What ended them, by cause.
        seconds: How long they took in all, without the one that lasts.
    """

    now: Doze | None = None
    sleeps: int = 0
    wakes: Counter[str] = dataclasses.field(default_factory=Counter)
    seconds: float = 0.0

    @property
    def saves(self) -> int:
        """Bytes that it would be saving now."""
        doze = self.now  # once: this is asked from other threads
        return doze.bytes if doze else 0

    def begin(self, doze: Doze) -> None:
        """Count a would-be sleep."""
        self.now = doze
        self.sleeps += 1

    def end(self, cause: str, now: float) -> None:
        """Count a would-be wake (monotonic seconds)."""
        if self.now is not None:
            self.wakes[cause] += 1
            self.seconds += now - self.now.since
            self.now = None
