"""From what the daemon holds to what it says: Info messages and `why` paragraphs."""

import dataclasses
import time
from collections.abc import Collection, Iterable
from typing import Any

from checkpointer import api, containers, lifecycle, notes, vouching, why
from checkpointer.container import Container
from checkpointer.declared import Declared
from checkpointer.kinds import Kind
from redirector.endpoints import Port


@dataclasses.dataclass(frozen=True, slots=True)
class Seen:
    """What others know of a container.

    Attributes:
        names: Of the containers that its pod has had.
        remark: What its owner should know besides; "" if nothing.
        declared: What its pod declares of it, if that is known.
    """

    names: Collection[str] = ()
    remark: str = ""
    declared: Declared | None = None


def info(record: containers.Record, container: Container | None, seen: Seen | None = None) -> Any:
    """The Info message of a container; without an actor it is UNMANAGED, or not started yet.

    Args:
        record: Who it is.
        container: What is known of it while it is managed.
        seen: For the notes; None if nobody asks for them.
    """
    who = {
        "id": record.id,
        "namespace": record.namespace,
        "pod": record.pod,
        "uid": record.uid,
        "container": record.name,
        "scaledown": record.policy.scaledown,
        "pid": record.pid,
        "wishes": record.policy.wishes,
        "notes": _notes(record, container, seen) if seen is not None else (),
    }
    if container is None:
        return api.m.Info(
            **who,
            state="UNMANAGED" if record.reason else "STARTING",
            reason=record.reason,
            kind=record.kind,
        )
    # Once: a worker may take the hold away meanwhile.
    times, life, hold = container.times, container.life, container.hold
    return api.m.Info(
        **who,
        state=life.state.value,
        since=container.since,
        cause=life.cause,
        reason=_shown(life.reason) or notes.unheard(_unheard(container)),
        kind=life.kind or (Kind.START_SILENT if _unheard(container) else ""),
        image_bytes=container.image.manifest.total_bytes if container.image else 0,
        wake_ms=times.total(times.wake),
        wake_cause=times.wake_cause,
        wake_phases=times.wake,
        sleep_ms=times.total(times.sleep),
        sleep_phases=times.sleep,
        wakes=times.wakes,
        sleeps=times.sleeps,
        failed_sleeps=life.failed_sleeps,
        failed_wakes=life.failed_wakes,
        busy=_shown(container.busy),
        ports=_names(container.ports),
        draining=container.drain is not None,
        held_frames=hold.queued if hold else 0,
        dropped_frames=hold.dropped if hold else 0,
        look_in=_look_in(container),
        dry_run=record.policy.dry_run,
        would_sleep=life.would_sleep,
        would_sleeps=container.dozes.sleeps,
        would_wakes=container.dozes.wakes,
        would_save_bytes=container.dozes.saves,
        mode=container.mode.value if life.state in _MODES else "",
    )


def paragraph(record: containers.Record, container: Container | None, seen: Seen) -> str:
    """The paragraph of `zeropod why`; see `info`."""
    told = _notes(record, container, seen)
    return why.annotated(_state(record, container), record.policy.wishes, told)


def _notes(record: containers.Record, container: Container | None, seen: Seen) -> list[str]:
    # What is refused or not named has its reason; the policy's own notes are for what is managed.
    of_policy = record.policy.notes if not record.reason else ()
    ports = container.ports if container else ()
    silent = notes.silent(record.policy, ports)
    told = (container.hitch, notes.unheard(_unheard(container))) if container else ()
    others = filter(None, (*told, *vouching.remarks(seen.declared), _shown(seen.remark)))
    return [*of_policy, *notes.unknown(record.policy, seen.names), *silent, *others]


def _unheard(container: Container) -> frozenset[Port]:
    """Where its application, started afresh, does not listen still."""
    runs = container.life.state is lifecycle.State.RUNNING
    return container.unheard - container.ports if runs else frozenset()


def _state(record: containers.Record, container: Container | None) -> str:
    if container is None:
        if record.reason:
            return f"{record.title} is not managed and never sleeps: {record.reason}."
        return f"{record.title} has not started yet."
    return why.explain(
        why.Facts(
            title=record.title,
            life=dataclasses.replace(container.life, reason=_shown(container.life.reason)),
            age=time.time() - container.since,
            scaledown=record.policy.scaledown,
            busy=_shown(container.busy),
            look_in=_look_in(container),
            ports=_names(container.heeded),
            image_bytes=container.image.manifest.total_bytes if container.image else 0,
            policy=record.policy,
            dozes=container.dozes,
            mode=container.mode,
        )
    )


_MODES = {*lifecycle.AT_REST, lifecycle.State.WAKING}


def _shown(reason: str) -> str:
    """A reason as it may go to a terminal: it may quote criu, which quotes what containers call their files."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in reason)


def _names(ports: Iterable[Port]) -> list[str]:
    return [f"{port.proto}/{port.number}" for port in sorted(ports)]


def _look_in(container: Container) -> float:
    return max(0.0, container.look_at - time.monotonic())
