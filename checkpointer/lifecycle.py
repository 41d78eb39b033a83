"""A managed container's life as a pure state machine: (life, event) -> (life, effects).

Nothing here touches a process, a file or a clock; `actor` feeds events in and performs the effects. The diagram is in
docs/architecture.md. The one rule behind the transitions: an application is never killed because a checkpoint failed,
and an image is never given up because a restore failed once.
"""

import dataclasses
import enum
from typing import Any

from checkpointer.kinds import Kind


class State(enum.StrEnum):
    """Where a container stands; the names users see in `zeropod list`."""

    RUNNING = "RUNNING"  # the application runs; it may be about to become idle
    SLEEPING = "SLEEPING"  # a checkpoint is being taken; the application still exists
    ASLEEP = "ASLEEP"  # the application is gone; its memory is in an image, unless its owner wants none kept
    FROZEN = "FROZEN"  # the application stands still, because it could not be checkpointed
    WAKING = "WAKING"  # a restore runs, or waits to be tried again; or a start, or a thaw
    GONE = "GONE"  # the supervisor has ended, or was told to


class Mode(enum.StrEnum):
    """How a container is at rest; the words users see."""

    IMAGE = "image"  # its memory is on disk
    OFF = "off"  # its application was ended, and is started afresh
    FROZEN = "frozen"  # its application stands still


AT_REST = frozenset({State.ASLEEP, State.FROZEN})
"""Where only a wake leads on."""


@dataclasses.dataclass(frozen=True, slots=True)
class Life:
    """State and the little history that decides transitions.

    Attributes:
        state: See `State`.
        failed_sleeps: Checkpoints that failed in a row; sets the back-off.
        failed_wakes: Restores that failed in a row; past `MAX_WAKES` the container is given to the runtime.
        cause: Why the current state was entered ("idle", "tcp-connect", "exec", ...).
        reason: Why the container is not asleep although it was tried; "" when nothing stands in the way.
        kind: The reason as a stable word; None without one.
        would_sleep: It would be asleep now if this were no dry run.
    """

    state: State = State.RUNNING
    failed_sleeps: int = 0
    failed_wakes: int = 0
    cause: str = "started"
    reason: str = ""
    kind: Kind | None = None
    would_sleep: bool = False


# --- events ----------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, slots=True)
class SleepAsked:
    """The container is idle, or somebody asked for it to sleep."""

    cause: str


@dataclasses.dataclass(frozen=True, slots=True)
class Slept:
    """The checkpoint is committed and the application gone."""


@dataclasses.dataclass(frozen=True, slots=True)
class Froze:
    """The application could not be checkpointed, and stands still instead.

    Attributes:
        reason: Why it could not.
        kind: The same as a stable word.
        tried: False if that is known from the last time, and was not tried again so soon.
    """

    reason: str
    kind: Kind = Kind.INTERNAL
    tried: bool = True


@dataclasses.dataclass(frozen=True, slots=True)
class SleepCalledOff:
    """Traffic, an exec or a signal came before the commit; nothing is wrong."""

    cause: str


@dataclasses.dataclass(frozen=True, slots=True)
class SleepRefused:
    """Looked at before anything was touched: this cannot be checkpointed as it is now."""

    reason: str
    kind: Kind = Kind.INTERNAL


@dataclasses.dataclass(frozen=True, slots=True)
class SleepFailed:
    """criu or the file system failed; the application runs on."""

    reason: str
    kind: Kind = Kind.INTERNAL


@dataclasses.dataclass(frozen=True, slots=True)
class WouldSleep:
    """In a dry run: it is idle and could have been put to sleep. It runs on until a WakeAsked would have ended that."""

    cause: str


@dataclasses.dataclass(frozen=True, slots=True)
class WakeAsked:
    """A packet, an exec, a signal or a person wants the application."""

    cause: str


@dataclasses.dataclass(frozen=True, slots=True)
class Woke:
    """The application runs again and has its packets."""


@dataclasses.dataclass(frozen=True, slots=True)
class WakeFailed:
    """A restore failed; the image is whole."""

    reason: str
    kind: Kind = Kind.INTERNAL


@dataclasses.dataclass(frozen=True, slots=True)
class WakeHeld:
    """There is no room for the application now; nothing of it is left, if anything was tried."""

    reason: str
    kind: Kind = Kind.INTERNAL


@dataclasses.dataclass(frozen=True, slots=True)
class RetryWake:
    """The pause after a failed or held wake is over."""


@dataclasses.dataclass(frozen=True, slots=True)
class Lost:
    """No application, no image: must be impossible, and is said loudly."""

    reason: str
    kind: Kind = Kind.INTERNAL


@dataclasses.dataclass(frozen=True, slots=True)
class Exited:
    """The supervisor is gone; the runtime has, or will have, the exit status."""


Event = (
    SleepAsked
    | Slept
    | Froze
    | SleepCalledOff
    | SleepRefused
    | SleepFailed
    | WouldSleep
    | WakeAsked
    | Woke
    | WakeFailed
    | WakeHeld
    | RetryWake
    | Lost
    | Exited
)

# --- effects ---------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, slots=True)
class Sleep:
    """Take a checkpoint; answers Slept, SleepCalledOff, SleepRefused or SleepFailed."""


@dataclasses.dataclass(frozen=True, slots=True)
class CallOff:
    """Stop the checkpoint before its commit if that is still possible."""

    cause: str


@dataclasses.dataclass(frozen=True, slots=True)
class Wake:
    """Restore; answers Woke, WakeFailed or WakeHeld."""

    cause: str


@dataclasses.dataclass(frozen=True, slots=True)
class WakeLater:
    """Answer RetryWake after `seconds`."""

    seconds: float


@dataclasses.dataclass(frozen=True, slots=True)
class Rest:
    """Look again at the container's activity, not before `seconds` from now."""

    seconds: float


@dataclasses.dataclass(frozen=True, slots=True)
class Stir:
    """Watch no more for what would have woken it."""


@dataclasses.dataclass(frozen=True, slots=True)
class Fail:
    """Tell the supervisor to end with 71, so that the kubelet restarts the container; keep the image for a while."""

    reason: str


@dataclasses.dataclass(frozen=True, slots=True)
class CleanUp:
    """Take away everything that was the container's: image, maps, marks, records."""


Effect = Sleep | CallOff | Wake | WakeLater | Rest | Stir | Fail | CleanUp

MAX_WAKES = 5
"""Restores tried on one image before the container is failed: the last is some 15 s after the first."""

SLEEP_BACKOFF = (10.0, 3600.0)
"""Seconds before a failed checkpoint is tried again: first, and the most it doubles to."""

WAKE_BACKOFF = (0.5, 8.0)
"""Seconds before a failed restore is tried again: first, and the most it doubles to. Clients are waiting."""


def backoff(bounds: tuple[float, float], failures: int) -> float:
    """Seconds to wait after that many failures in a row (at least one)."""
    first, most = bounds
    return float(min(most, first * 2 ** min(failures - 1, 20)))


def step(life: Life, event: Event) -> tuple[Life, list[Effect]]:
    """What an event makes of a container's life, and what is to be done about it.

    An event that means nothing in the current state (a second packet while waking, an answer that was overtaken by
    the container's end) changes nothing.
    """
    if isinstance(event, Exited):
        # A failed container ends later than it is given up: clean up once, at its real end.
        return _to(life, State.GONE, "exited"), [] if life.cause == "exited" else [CleanUp()]
    if life.state is State.GONE:
        return life, []
    if isinstance(event, Lost):
        return _to(life, State.GONE, "lost", reason=event.reason, kind=event.kind), [
            Fail(event.reason)
        ]
    match life.state:
        case State.RUNNING:
            return _running(life, event)
        case State.SLEEPING:
            return _sleeping(life, event)
        case State.ASLEEP | State.FROZEN:
            return _at_rest(life, event)
        case State.WAKING:
            return _waking(life, event)


def _running(life: Life, event: Event) -> tuple[Life, list[Effect]]:
    match event:
        case SleepAsked(cause):
            return _to(life, State.SLEEPING, cause), [Sleep()]
        case WouldSleep(cause):
            after = _to(life, State.RUNNING, cause, failed_sleeps=0, reason="", kind=None)
            return dataclasses.replace(after, would_sleep=True), [Rest(0.0)]
        case WakeAsked(cause) if life.would_sleep:
            return _to(life, State.RUNNING, cause), [Stir(), Rest(0.0)]
        case SleepRefused() | SleepFailed():
            return _tried(life, event)  # of a dry run
        case _:
            return life, []


def _sleeping(life: Life, event: Event) -> tuple[Life, list[Effect]]:
    match event:
        case Slept():
            return _to(life, State.ASLEEP, life.cause, failed_sleeps=0, reason="", kind=None), []
        case Froze(reason, kind, tried):
            failures = life.failed_sleeps + tried
            after = _to(life, State.FROZEN, life.cause, reason=reason, kind=kind)
            return dataclasses.replace(after, failed_sleeps=failures), []
        case SleepCalledOff(cause):
            return _to(life, State.RUNNING, cause, reason="", kind=None), [Rest(0.0)]
        case SleepRefused() | SleepFailed():
            return _tried(life, event)
        case WakeAsked(cause):
            return life, [CallOff(cause)]
        case _:
            return life, []


def _tried(life: Life, event: SleepRefused | SleepFailed) -> tuple[Life, list[Effect]]:
    failures = life.failed_sleeps + 1
    after = _to(
        life,
        State.RUNNING,
        "refused" if isinstance(event, SleepRefused) else "sleep-failed",
        failed_sleeps=failures,
        reason=event.reason,
        kind=event.kind,
    )
    return after, [Rest(backoff(SLEEP_BACKOFF, failures))]


def _at_rest(life: Life, event: Event) -> tuple[Life, list[Effect]]:
    match event:
        case WakeAsked(cause):
            return _to(life, State.WAKING, cause, failed_wakes=0), [Wake(cause)]
        case _:
            return life, []


def _waking(life: Life, event: Event) -> tuple[Life, list[Effect]]:
    match event:
        case Woke():
            return _to(life, State.RUNNING, life.cause, failed_wakes=0, reason="", kind=None), [
                Rest(0.0)
            ]
        case WakeHeld(reason, kind):
            # No room is no failure of the image: it is tried for as long as the container lives.
            held = dataclasses.replace(life, reason=reason, kind=kind)
            return held, [WakeLater(WAKE_BACKOFF[0])]
        case WakeFailed(reason, kind):
            failures = life.failed_wakes + 1
            after = dataclasses.replace(life, failed_wakes=failures, reason=reason, kind=kind)
            if failures >= MAX_WAKES:
                return _to(after, State.GONE, "wake-failed"), [Fail(reason)]
            return after, [WakeLater(backoff(WAKE_BACKOFF, failures))]
        case RetryWake():
            return life, [Wake(life.cause)]
        case _:
            return life, []


def _to(life: Life, state: State, cause: str, **changes: Any) -> Life:
    return dataclasses.replace(life, state=state, cause=cause, would_sleep=False, **changes)
