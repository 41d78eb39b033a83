"""From what became of a container to what `kubectl describe pod` says of it; pure.

Reasons are stable words in CamelCase. Of those of the original `Running` is kept, and `Scaled down`, `Checkpoint failed`
and `Restore failed` have lost their blanks. What needs somebody is a Warning.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from checkpointer.lifecycle import State

LONGEST = 1000
"""Bytes of a message; the API server refuses more than 1024."""


@dataclasses.dataclass(frozen=True, slots=True)
class Event:
    """What is said of a container.

    Attributes:
        reason: A word.
        message: A sentence.
        warning: It needs somebody.
    """

    reason: str
    message: str
    warning: bool = False


def tell(before: str, info: Any) -> Event | None:
    """What to say of a transition, if anything.

    Args:
        before: The state before; "" if it has just become known.
        info: The Info message after it.
    """
    found = _tell(before, info)
    return None if found is None else dataclasses.replace(found, message=clipped(found.message))


def _tell(before: str, info: Any) -> Event | None:
    name, why = info.container, info.reason
    match before, info.state:
        case "", "UNMANAGED" if why:
            return Event("NotManaged", f"Container {name} never sleeps: {why}", warning=True)
        case State.SLEEPING, State.ASLEEP:
            return Event("ScaledDown", f"Scaled down container {name} in {_span(info.sleep_ms)}")
        case State.SLEEPING, State.FROZEN:
            return Event(
                "Frozen",
                f"Froze container {name}, which could not be checkpointed: {why}",
                warning=True,
            )
        case State.WAKING, State.RUNNING:
            return Event(
                "Running",
                f"Restored container {name} in {_span(info.wake_ms)} ({info.wake_cause})",
            )
        case State.SLEEPING, State.RUNNING if info.kind in PASSING and info.failed_sleeps < 3:
            return None
        case State.SLEEPING, State.RUNNING if why and info.cause == "refused":
            return Event(
                "ScaleDownRefused",
                f"Container {name} cannot be scaled down as it is: {why}",
                warning=True,
            )
        case State.SLEEPING, State.RUNNING if why:
            return Event(
                "CheckpointFailed", f"Checkpoint failed for container {name}: {why}", warning=True
            )
        case State.WAKING, State.WAKING if why and info.kind in HELD:
            return Event("RestoreHeld", f"Container {name} has to wait: {why}", warning=True)
        case State.WAKING, State.WAKING if why:
            return Event(
                "RestoreFailed", f"Restore failed for container {name}: {why}", warning=True
            )
        case _, State.GONE if info.cause == "wake-failed":
            return Event(
                "RestoreGivenUp",
                f"Container {name} could not be restored and is restarted, its memory is lost: {why}",
                warning=True,
            )
        case _, State.GONE if info.cause == "lost":
            return Event(
                "StateLost",
                f"The memory of container {name} is lost and it is restarted: {why}",
                warning=True,
            )
        case State.RUNNING, State.RUNNING if info.dry_run and info.would_sleep:
            return Event("WouldScaleDown", f"Dry run: would have scaled down container {name}")
        case State.RUNNING, State.RUNNING if info.dry_run and not why:
            return Event(
                "WouldRestore", f"Dry run: would have restored container {name} ({info.cause})"
            )
        case _:
            return None


PASSING = frozenset({"not-running", "no-port", "time-wait", "pages-coming"})
"""Kinds that are otherwise in a moment, as with an application that is starting; told if they last."""

HELD = frozenset(
    {
        "no-room-container",
        "no-room-pod",
        "no-room-node",
        "no-room-tasks",
        "pid-taken",
        "disk-full",
        "image-unwritable",
    }
)
"""Kinds with which a wake waits and is no failure."""


def clipped(text: str) -> str:
    """A message that the API server takes."""
    data = text.encode()
    if len(data) <= LONGEST:
        return text
    return data[: LONGEST - 4].decode(errors="ignore") + " ..."


def _span(milliseconds: float) -> str:
    return f"{milliseconds / 1e3:.2f} s" if milliseconds >= 1000 else f"{milliseconds:.1f} ms"
