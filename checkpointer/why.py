"""One paragraph on one container: why it is (not) asleep, and what would change that. Pure: facts in, prose out."""

import dataclasses
from collections.abc import Sequence

from checkpointer import lifecycle
from checkpointer.doze import Dozes
from checkpointer.lifecycle import Mode, State
from checkpointer.policy import Policy

CAUSES = {
    "idle": "it had been idle for its scaledown-duration",
    "asked": "somebody ran `zeropod`",
    "tcp-connect": "a client opened a connection",
    "tcp-data": "data came on a connection from before the sleep",
    "tcp-ping": "a client's protocol asked whether it is there (WebSocket, HTTP/2, MQTT or AMQP)",
    "udp": "a datagram came",
    "probe": "a probe of the kubelet's was just being answered",
    "exec": "a program was started in it (kubectl exec, or an exec probe)",
    "signal": "it was sent a signal, for instance by a pod deletion",
    "daemon-stop": "the daemon went down as planned",
    "adopted": "the daemon found it so when it started",
    "started": "its container started",
    "policy": "its annotations mean something else now",
    "refused": "it cannot be put to sleep as it is",
    "sleep-failed": "putting it to sleep failed",
    "wake-failed": "waking it failed too often",
    "lost": "its memory was lost",
    "exited": "its application ended",
}
"""What the machine's causes mean to people."""


@dataclasses.dataclass(frozen=True, slots=True)
class Facts:
    """What is known of one container.

    Attributes:
        title: namespace/pod/container.
        life: State, cause and failures.
        age: Seconds in this state.
        scaledown: Seconds of idleness before it sleeps; 0 = never.
        busy: What keeps it awake now; "" if nothing was seen.
        look_in: Seconds until it is looked at again.
        ports: Its listening ports whose packets wake it, as "tcp/6379".
        image_bytes: Size of its image.
        policy: What its owner wants.
        dozes: What a dry run has decided.
        mode: How it sleeps.
    """

    title: str
    life: lifecycle.Life
    age: float
    scaledown: float
    busy: str
    look_in: float
    ports: Sequence[str]
    image_bytes: int
    policy: Policy = dataclasses.field(default_factory=Policy)
    dozes: Dozes = dataclasses.field(default_factory=Dozes)
    mode: Mode = Mode.IMAGE


def explain(facts: Facts) -> str:
    """The paragraph that `zeropod why` prints."""
    match facts.life.state:
        case State.RUNNING if facts.policy.dry_run:
            return f"{facts.title} is awake: zeropod.ctrox.dev/dry-run is set, nothing sleeps. {_dry(facts)}"
        case State.RUNNING:
            return f"{facts.title} is awake since {_span(facts.age)} ({_cause(facts)}). {_awake(facts)}"
        case State.SLEEPING:
            return f"{facts.title} is being put to sleep since {_span(facts.age)}; packets and execs wait meanwhile."
        case State.ASLEEP if facts.mode is Mode.OFF:
            return (
                f"{facts.title} is asleep since {_span(facts.age)} because {_cause(facts)}; its application was ended and "
                f"nothing of its memory is kept (zeropod.ctrox.dev/disable-checkpointing). {_doors(facts, kept=False)}, an "
                "exec or `zeropod wake` starts it afresh; a stop ends the container at once with exit code 0."
            )
        case State.FROZEN:
            why = facts.life.reason or "it could not be checkpointed when that was last tried"
            return (
                f"{facts.title} is frozen since {_span(facts.age)} because {_cause(facts)}, and could not be checkpointed: "
                f"{why}. It uses no CPU, but keeps its memory (zeropod.ctrox.dev/on-failure). {_doors(facts)}, an exec, a "
                f"signal or `zeropod wake` lets it go on, in about a millisecond.{_stop(facts)}"
            )
        case State.ASLEEP:
            return (
                f"{facts.title} is asleep since {_span(facts.age)} because {_cause(facts)}; its memory is an image of "
                f"{_size(facts.image_bytes)}. {_doors(facts)}, an exec, a signal or `zeropod wake` wakes it.{_stop(facts)}"
            )
        case State.WAKING if facts.mode is Mode.OFF:
            return (
                f"{facts.title} is being started afresh because {_cause(facts)}; packets wait until it listens on its ports "
                f"again ({_ports(facts)}), for a minute at the most."
            )
        case State.WAKING if facts.life.reason and facts.mode is Mode.IMAGE:
            return (
                f"{facts.title} is to wake because {_cause(facts)}, but cannot yet: {facts.life.reason}. The image is "
                f"kept and the restore is tried again (failed {facts.life.failed_wakes} of "
                f"{lifecycle.MAX_WAKES} times); packets are held meanwhile."
            )
        case State.WAKING:
            return f"{facts.title} is waking because {_cause(facts)}."
        case State.GONE:
            reason = f": {facts.life.reason}" if facts.life.reason else ""
            return f"{facts.title} has ended ({facts.life.cause}{reason})."


def annotated(text: str, wishes: Sequence[str], notes: Sequence[str]) -> str:
    """A paragraph with what its owner asks for, and what the owner should know of it."""
    asked = f" Its annotations: {', '.join(wishes)}." if wishes else ""
    return (
        text
        + asked
        + "".join(f" Note: {note}{'' if note.endswith('?') else '.'}" for note in notes)
    )


def _dry(facts: Facts) -> str:
    if facts.life.would_sleep:
        now = (
            f"It would be asleep now ({_cause(facts)}) and its container would use {_size(facts.dozes.saves)} less. "
            f"{_doors(facts)} or an exec would wake it."
        )
    else:
        now = _awake(facts)
    wakes = ", ".join(f"{cause} {count}" for cause, count in sorted(facts.dozes.wakes.items()))
    return f"{now} So far it would have slept {_times(facts.dozes.sleeps)} and been woken: {wakes or 'never'}."


def _awake(facts: Facts) -> str:
    if not facts.scaledown:
        return "It never sleeps because zeropod.ctrox.dev/scaledown-duration is 0; set a duration such as 1m."
    if facts.life.reason:
        times = (
            f", {facts.life.failed_sleeps} times in a row" if facts.life.failed_sleeps > 1 else ""
        )
        return (
            f"The last try to put it to sleep did not work{times}: {facts.life.reason}. The application was left as "
            f"it was; the next try is in {_span(facts.look_in)}."
        )
    busy = f"It stays awake; at the last look: {facts.busy}. " if facts.busy else ""
    return (
        f"{busy}It sleeps after {_span(facts.scaledown)} without traffic "
        f"(zeropod.ctrox.dev/scaledown-duration); the next look is in {_span(facts.look_in)}."
    )


def _doors(facts: Facts, *, kept: bool = True) -> str:
    """What packets wake it; `kept`: it has connections from before."""
    if not kept:
        return f"A packet to {_ports(facts)}"
    if not facts.ports:
        return "Data on one of its connections"
    return f"A packet to {_ports(facts)} or data on one of its connections"


def _ports(facts: Facts) -> str:
    return ", ".join(facts.ports) or "none of its ports"


def _stop(facts: Facts) -> str:
    if facts.policy.wake_on_stop:
        return ""
    return " A stop ends it at once with exit code 0 (zeropod.ctrox.dev/wake-on-stop)."


def _cause(facts: Facts) -> str:
    return CAUSES.get(facts.life.cause, facts.life.cause)


def _span(seconds: float) -> str:
    whole = max(0, round(seconds))
    if whole < 120:
        return f"{whole} s"
    if whole < 7200:
        return f"{whole // 60} min"
    return f"{whole // 3600} h"


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"


def _size(count: int) -> str:
    return f"{count / 1e6:.1f} MB" if count >= 1e5 else f"{count / 1e3:.0f} KB"
