"""What is counted: of one container, and of the node. Plain numbers, exposed by `metrics`; pure.

A container's tally lives and ends with its actor, so that its series do too.
"""

import bisect
import dataclasses
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping

from checkpointer import lifecycle
from checkpointer.kinds import Kind
from checkpointer.lifecycle import Life, Mode

ORIGINAL_BUCKETS = (0.025, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1, 2.5, 5, 10)
"""Seconds; those of the original zeropod, so that its dashboards keep working."""

FINE_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075, 0.1, 0.25, 0.5, 1, 5)
"""Seconds; a wake takes some twenty milliseconds, its phases a few each."""


class Observations:
    """Durations in buckets, as a Prometheus histogram counts them.

    Args:
        bounds: Upper bounds of the buckets in seconds, ascending; a last one without bound is added.
    """

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def add(self, seconds: float) -> None:
        """Count one duration."""
        self._counts[bisect.bisect_left(self._bounds, seconds)] += 1
        self.sum += seconds

    def buckets(self) -> list[tuple[str, float]]:
        """Upper bound and cumulative count of each bucket, the last one "+Inf"."""
        total, found = 0, []
        for bound, count in zip((*map(str, self._bounds), "+Inf"), self._counts, strict=True):
            total += count
            found.append((bound, float(total)))
        return found


def _original() -> Observations:
    return Observations(ORIGINAL_BUCKETS)


def _fine() -> Observations:
    return Observations(FINE_BUCKETS)


@dataclasses.dataclass(slots=True)
class Tally:
    """What happened to one container since the daemon took it over.

    Attributes:
        checkpoints: How long its sleeps took.
        restores: How long its wakes took.
        slept_at: Epoch seconds of the last sleep; 0 = never.
        woke_at: Epoch seconds of the last wake; 0 = never.
        wakes: Wakes by cause.
        called_off: Sleeps called off before their commit, by cause.
        refused: Sleeps refused, by kind of reason.
        sleep_failures: Sleeps that failed, by kind of reason.
        frozen: Applications frozen instead, by kind of reason.
        wake_failures: Restores that failed, by kind of reason.
        held: Wakes that had to wait for room, by kind of reason; each is counted once however long it waits.
        waits: The kinds that the present wake is counted for.
        asleep: Seconds asleep, without the sleep that lasts.
        asleep_since: When the sleep that lasts began, or was found, by a clock that nobody sets; 0 = awake.
        dropped: Frames given up by holds that have ended.
        answered: Keepalives that were answered during those.
    """

    checkpoints: Observations = dataclasses.field(default_factory=_original)
    restores: Observations = dataclasses.field(default_factory=_original)
    slept_at: float = 0.0
    woke_at: float = 0.0
    wakes: Counter[str] = dataclasses.field(default_factory=Counter)
    called_off: Counter[str] = dataclasses.field(default_factory=Counter)
    refused: Counter[str] = dataclasses.field(default_factory=Counter)
    sleep_failures: Counter[str] = dataclasses.field(default_factory=Counter)
    frozen: Counter[str] = dataclasses.field(default_factory=Counter)
    wake_failures: Counter[str] = dataclasses.field(default_factory=Counter)
    held: Counter[str] = dataclasses.field(default_factory=Counter)
    waits: set[str] = dataclasses.field(default_factory=set)
    asleep: float = 0.0
    asleep_since: float = 0.0
    dropped: int = 0
    answered: int = 0

    def note(
        self, before: Life, event: lifecycle.Event, after: Life, *, epoch: float, ticks: float
    ) -> None:
        """Count what an event meant.

        Args:
            before: The life that the event found.
            event: What happened.
            after: The life that it made.
            epoch: Seconds since the epoch.
            ticks: Seconds on a clock that nobody sets.
        """
        if after is before:
            return  # it meant nothing any more
        match event:
            case lifecycle.Slept():
                self.slept_at, self.asleep_since = epoch, ticks
            case lifecycle.Froze():
                self.frozen[event.kind] += 1
            case lifecycle.SleepCalledOff(cause):
                self.called_off[cause] += 1
            case lifecycle.SleepRefused():
                self.refused[event.kind] += 1
            case lifecycle.SleepFailed():
                self.sleep_failures[event.kind] += 1
            case lifecycle.WakeFailed() | lifecycle.Lost():
                self.wake_failures[event.kind] += 1
            case lifecycle.WakeHeld() if event.kind not in self.waits:
                self.waits.add(event.kind)
                self.held[event.kind] += 1
            case lifecycle.Woke():
                self.wakes[after.cause] += 1
                self.woke_at = epoch
                self.waits.clear()
                self.asleep, self.asleep_since = self.asleep_until(ticks), 0.0
            case _:
                pass

    def asleep_until(self, ticks: float) -> float:
        """Seconds asleep until a moment, the sleep that lasts included."""
        return self.asleep + (ticks - self.asleep_since if self.asleep_since else 0.0)


@dataclasses.dataclass(slots=True)
class NodeTally:
    """What happened on the node, of whichever container.

    How long the phases of all sleeps and wakes took, by mode, since a thaw takes a thousandth of what a fresh start may;
    those of one sleep or wake add up to its duration. And what nobody could count whose series had ended with it.

    Attributes:
        sleep: Sleeps by mode and phase.
        wake: Wakes by mode and phase.
        sleeps: Sleeps by mode.
        wakes: Wakes by mode.
        given_up: Containers that were ended because their application could not be brought back, by kind of reason.
    """

    sleep: defaultdict[tuple[str, str], Observations] = dataclasses.field(
        default_factory=lambda: defaultdict(_fine)
    )
    wake: defaultdict[tuple[str, str], Observations] = dataclasses.field(
        default_factory=lambda: defaultdict(_fine)
    )
    sleeps: dict[str, Observations] = dataclasses.field(
        default_factory=lambda: {mode: _fine() for mode in (Mode.IMAGE, Mode.OFF)}
    )
    wakes: dict[str, Observations] = dataclasses.field(
        default_factory=lambda: {mode: _fine() for mode in Mode}
    )
    given_up: Counter[str] = dataclasses.field(default_factory=Counter)

    def slept(self, mode: Mode, phases: Mapping[str, float]) -> None:
        """Count a sleep by its phases in milliseconds."""
        _observe(self.sleeps[mode], self.sleep, mode, phases)

    def woke(self, mode: Mode, phases: Mapping[str, float]) -> None:
        """Count a wake by its phases in milliseconds."""
        _observe(self.wakes[mode], self.wake, mode, phases)

    def note(self, before: Life, after: Life) -> None:
        """Count what became of a container."""
        if before.state is not after.state and after.cause in {"wake-failed", "lost"}:
            self.given_up[after.kind or Kind.INTERNAL] += 1


def _observe(
    whole: Observations,
    parts: Mapping[tuple[str, str], Observations],
    mode: str,
    phases: Mapping[str, float],
) -> None:
    for phase, milliseconds in phases.items():
        parts[mode, phase].add(milliseconds / 1e3)
    whole.add(total(phases.values()))


def total(milliseconds: Iterable[float]) -> float:
    """Seconds that phases took together."""
    return sum(milliseconds) / 1e3
