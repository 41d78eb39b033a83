"""When may a container sleep: a pure decision from what was seen of it."""

import dataclasses
import enum
from collections.abc import Iterable

from checkpointer.policy import Policy

PREFIX = "zeropod.ctrox.dev"

GRACE = 10.0
"""Seconds by which an ignored peer that waits for its answer delays a sleep at most: as long as a scraper waits. It is
looked at again every `GLANCE` seconds, since most answers take less than one of them."""

GLANCE = 0.25
"""Seconds until a sleep that is about to be is looked at again."""

PATIENCE = 10.0
"""Seconds between looks at what ends without traffic: a connection, a program that computes."""


NOD = 5.0
"""Seconds for which a container stays awake that was woken by a ping, if nothing else comes. The answer takes
milliseconds; but clients that ping more often than that are best answered awake. So are those that ping before it has
slept for its scaledown-duration: each time its memory would be written to disk for a moment's rest."""


class Asks(enum.Enum):
    """Whose payload is a question that the other side answers."""

    PEER = "peer"  # a client's
    APPLICATION = "application"  # its own, on a connection that it opened
    NOBODY = "nobody"  # a datagram alone opens no request


@dataclasses.dataclass(frozen=True, slots=True)
class Seen:
    """Last payload of one port or connection, in seconds on the monotonic clock; 0 = never.

    Attributes:
        incoming: Towards the application.
        outgoing: From it.
        asks: Who opens a request there.
        where: For people: "tcp/80", "10.0.0.5:5432".
    """

    incoming: float
    outgoing: float
    asks: Asks = Asks.PEER
    where: str = ""

    @property
    def last(self) -> float:
        """The later of both directions."""
        return max(self.incoming, self.outgoing)

    @property
    def open_since(self) -> float | None:
        """When the request was sent that is not answered yet; None without one."""
        if self.asks is Asks.PEER and self.incoming > self.outgoing:
            return self.incoming
        if self.asks is Asks.APPLICATION and self.outgoing > self.incoming:
            return self.outgoing
        return None


@dataclasses.dataclass(frozen=True, slots=True)
class Facts:
    """What was seen of a container.

    Attributes:
        since: When it started or woke, which counts as activity.
        woke: When it last woke; 0 = not yet.
        pinged: Whether a ping was all that woke it, or called its sleep off.
        slept: For how long it had slept then, in seconds; negative if that was called off.
        seen: Its ports and connections.
        ignored: Connections of peers, or to ports, that the policy ignores.
        kubelet: Connections that the kubelet has opened, for probes and hooks.
        unsent: Bytes on their way to its peers. Asleep it would not send them, and an ACK does not wake.
        unsent_ignored: The same, to ignored peers.
        opening: Connections that it tries to open.
        inbound: Open connections of its clients.
        sessions: Processes in the container that are not the application's (kubectl exec).
        worked: When it was last seen to use more CPU than the policy's threshold; 0 = never.
        work: What it used then, for people.
        measured: Whether its CPU use is known, if the policy asks for it.
        ready: Whether the kubelet takes it for Ready, as far as that is known.
        leaving: Whether its pod is being deleted, as far as that is known.
        spared: Since when it is awake only for an ignored peer; 0 = it is not.
    """

    since: float
    woke: float = 0.0
    pinged: bool = False
    slept: float = 0.0
    seen: tuple[Seen, ...] = ()
    ignored: tuple[Seen, ...] = ()
    kubelet: tuple[Seen, ...] = ()
    unsent: int = 0
    unsent_ignored: int = 0
    opening: int = 0
    inbound: int = 0
    sessions: int = 0
    worked: float = 0.0
    work: str = ""
    measured: bool = True
    ready: bool = True
    leaving: bool = False
    spared: float = 0.0


@dataclasses.dataclass(frozen=True, slots=True)
class Idle:
    """It may sleep now."""


@dataclasses.dataclass(frozen=True, slots=True)
class Busy:
    """It may not sleep before `until` (monotonic seconds); `because` is for people.

    Attributes:
        spares: Whether it is only an ignored peer.
    """

    until: float
    because: str
    spares: bool = False


def decide(now: float, facts: Facts, policy: Policy) -> Idle | Busy:
    """Whether a container is idle now (monotonic seconds)."""
    scaledown = policy.scaledown
    if facts.sessions:
        return Busy(now + scaledown, f"{facts.sessions} exec session(s)")
    if facts.leaving:
        # It may shut down quietly for longer than its scaledown-duration. Asleep it would not go on with that.
        return Busy(now + scaledown, "its pod is being deleted, and it shuts down")
    # The answer may come at any moment and starts the clock anew; looking once a period is enough.
    for asks, because in _WAITING.items():
        asked, where = _asked(facts.seen, asks)
        if asked and now < asked + policy.max_request:
            until = min(now + scaledown, asked + policy.max_request)
            return Busy(until, because + _shown(where))
    nods = facts.pinged and not 0 <= facts.slept < scaledown
    since = facts.since - max(0.0, scaledown - NOD) if nods else facts.since
    latest = max(facts.seen, key=lambda seen: seen.last, default=Seen(0.0, 0.0))
    traffic = max(since, latest.last)
    last = max(traffic, facts.worked)
    if now < last + scaledown:
        where = _shown(latest.where) if latest.last > since else ""
        because = f"last traffic {max(0.0, now - last):.0f} s ago{where}"  # or during the look
        return Busy(last + scaledown, facts.work if last > traffic else because)
    if facts.unsent and now < last + policy.max_request:
        return Busy(
            min(now + scaledown, last + policy.max_request),
            f"its peers have not acknowledged {facts.unsent} bytes yet",
        )
    if facts.opening and now < last + policy.max_request:
        return Busy(now + min(scaledown, GLANCE), f"it is opening {facts.opening} connection(s)")
    if policy.connections == "wait" and facts.inbound:
        return Busy(
            now + min(scaledown, PATIENCE),
            f"{facts.inbound} connection(s) of its clients are open, and {PREFIX}/connections is wait",
        )
    if not facts.ready:
        return Busy(
            now + min(scaledown, PATIENCE),
            "it is not Ready: its startup or readiness probe fails, which only it can mend",
        )
    if not facts.measured:
        return Busy(now + GLANCE, "what CPU it uses is being measured")
    # Of a probe that lasts until its time-out, of a preStop hook for as long as the pod is drained.
    asked, _ = _asked(facts.kubelet, Asks.PEER)
    if asked and now < asked + policy.max_request:
        return Busy(now + GLANCE, "the kubelet is being answered")
    asked, _ = _asked(facts.ignored, Asks.PEER)
    waiting = facts.unsent_ignored or (asked and now < asked + GRACE)
    # The kubelet connects, and asks a moment later.
    waiting = waiting or any(not one.last for one in facts.kubelet)
    if waiting and now < (facts.spared or now) + GRACE:
        return Busy(now + GLANCE, "an ignored peer is being answered", spares=True)
    if facts.woke and now < facts.woke + policy.min_awake:
        return Busy(
            facts.woke + policy.min_awake,
            f"it woke {now - facts.woke:.0f} s ago, and {PREFIX}/min-awake is {policy.min_awake:.0f} s",
        )
    return Idle()


_WAITING = {
    Asks.PEER: "a request is being answered",
    Asks.APPLICATION: "it waits for the answer to a request of its own",
}


def _asked(seen: Iterable[Seen], asks: Asks) -> tuple[float, str]:
    """When the youngest request was sent that has no answer yet, and where; 0 = there is none."""
    opened = ((s.open_since or 0.0, s.where) for s in seen if s.asks is asks)
    return max(opened, default=(0.0, ""))


def _shown(where: str) -> str:
    return f" ({where})" if where else ""


def early(now: float, until: float, policy: Policy) -> float:
    """When to look, if nothing else happens before `until`.

    CPU is measured from look to look, so a look shortly before the one that decides makes that one speak of the last
    moments, not of the whole period.
    """
    if policy.cpu_threshold and until - now > 2 * PATIENCE:
        return until - PATIENCE
    return until
