"""Taking over a container: read back what it is, put right what a dead daemon left half done, hold what sleeps.

Used for a container that has just started as for one that slept through three daemons: there is one way in. Blocking.
"""

import logging

from checkpointer import (
    containers,
    errors,
    frost,
    lazy,
    lifecycle,
    off,
    reconcile,
    rescue,
    restore,
    supervisor,
    tracers,
    vouching,
)
from checkpointer.container import Container
from checkpointer.engine import Engine
from checkpointer.kinds import Kind
from checkpointer.lifecycle import Life, Mode, State
from checkpointer.reconcile import Verdict
from redirector.endpoints import Port
from redirector.ignored import Ignored

log = logging.getLogger(__name__)

CRIU_ENDS = 90.0
"""Seconds to wait for a criu that works for a dead daemon; it is killed then, as a watchdog would have done."""


def clear(record: containers.Record, engine: Engine) -> None:
    """Wait, for minutes perhaps, until what an earlier daemon has begun in a container is over; before it is adopted.

    A criu goes on without the daemon that started it.

    Raises:
        errors.CriuError: One does not end.
    """
    tracers.dismiss(engine.zygotes, record.pid, CRIU_ENDS)


def adopt(record: containers.Record, engine: Engine) -> tuple[Container, list[lifecycle.Event]]:
    """The container as it is, and what should happen to it next; nobody is at work in it (`clear`).

    Raises:
        ProcessLookupError: It has ended meanwhile.
        OSError, errors.CheckpointerError: It cannot be taken over; it runs on as it is.
    """
    pod = engine.datapath.attach(record.pid, record.sandbox_id)
    pod.ignore(Ignored.of(record.policy.ignore_from))
    pod.tell_calls(record.policy.probe_detection)
    container = Container(record, pod)
    unusable = errors.ImageError(
        "the application is gone and there is no image of it", kind=Kind.IMAGE_MISSING
    )
    try:
        container.image = engine.store.load(record.id)
    except errors.ImageError as error:
        unusable = error
    verdict = _judge(container, engine)
    if verdict not in {Verdict.RUNNING, Verdict.EXITED}:
        log.info("adopt", extra={"pod": record.title, "verdict": verdict.name})
    match verdict:
        case Verdict.RUNNING:
            return _awake(container), []
        case Verdict.RESUME:
            if container.supervisor.state() is supervisor.State.FROZEN:
                container.cell.thaw()
            container.supervisor.tell(supervisor.Signal.RESUME, supervisor.State.RUN)
            return _awake(container), []
        case Verdict.ASLEEP:
            return _asleep(container, engine), []
        case Verdict.OFF:
            return _off(container, engine)
        case Verdict.END:
            found = _off(container, engine)
            off.finish(container, container.supervisor.application())
            return found
        case Verdict.STARTING:
            _off(container, engine)
            return container, [lifecycle.WakeAsked("adopted")]
        case Verdict.RESTORE:
            restore.kill_tree(container.target)
            return _asleep(container, engine), [lifecycle.WakeAsked("adopted")]
        case Verdict.EXITED:
            return container, []
        case Verdict.LOST:
            if unusable.kind is Kind.IMAGE_VERSION:
                raise unusable  # it sleeps on: the version that wrote the image can wake it
            return container, [lifecycle.Lost(unusable.reason, unusable.kind)]


def _judge(container: Container, engine: Engine) -> Verdict:
    control, image = container.supervisor, container.image
    application = control.application(image.manifest.app if image is not None else 0)
    if control.state() is supervisor.State.ARMED:
        if application is not None:
            # Whether the image was committed or not: without our answer criu has let it go on.
            rescue.after_dump(application)
        elif image is not None:
            # criu had killed it, and nobody was left to tell the supervisor that this was meant.
            control.tell(supervisor.Signal.ASLEEP, supervisor.State.ASLEEP)
    return reconcile.judge(
        reconcile.Found(
            application is not None,
            control.state(),
            image.fence_state() if image is not None else None,
            held=bool(container.record.policy.disable_checkpointing and _held(container, engine)),
        )
    )


def _held(container: Container, engine: Engine) -> frozenset[Port]:
    """The ports for which packets are held, by the maps' word."""
    found = (h for h in engine.datapath.holds() if h.container_id == container.record.id)
    return next((held.ports for held in found if held.mode != "off"), frozenset())


def _awake(container: Container) -> Container:
    """Let go what was held for it, and drop the image unless its pages are still being brought in."""
    container.pod.abandon(container.record.id)
    frost.dissolve(container)
    if container.image is not None:
        container.drain = lazy.find(container.image)
        if container.drain is None:
            container.image.drop()
            container.image = None
    container.life = Life(State.RUNNING, cause="adopted" if container.image else "started")
    return container


def _asleep(container: Container, engine: Engine) -> Container:
    image = container.image
    if image is None:
        raise errors.ImageError("asleep without an image")
    held = image.manifest.held
    # Of the UDP ports held, those on which it serves, and not those from which it asks, were known before its dump.
    listening = image.manifest.notes.get("ports", held.ports)
    container.ports = frozenset(Port(*port) for port in listening)
    container.hold = container.pod.adopt(
        container.record.id, held.ports, held.connections, container.unheeded, held.streams
    )
    vouching.tell(container, anew=True)
    engine.execs.hold(container.record.id, container.record.pid)
    container.life = Life(State.ASLEEP, cause="adopted")
    container.since = image.manifest.created
    return container


def _off(container: Container, engine: Engine) -> tuple[Container, list[lifecycle.Event]]:
    """Hold for an application that is started afresh; where nobody knows its ports any more it is, now."""
    if container.image is not None:
        container.image.drop()  # of a time when its owner wanted one
        container.image = None
    container.mode = Mode.OFF
    container.ports = _held(container, engine) or frozenset(container.record.ports)
    container.hold = container.pod.adopt(
        container.record.id, container.ports, (), container.unheeded
    )
    vouching.tell(container, anew=True)
    engine.execs.hold(container.record.id, container.record.pid)
    container.life = Life(State.ASLEEP, cause="adopted")
    known = container.ports or container.record.policy.portless
    return container, [] if known else [lifecycle.WakeAsked("adopted")]
