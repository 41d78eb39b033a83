"""When may a container sleep: a pure decision from what was seen of its traffic."""

import dataclasses
from collections.abc import Iterable

MAX_REQUEST = 600.0
"""Seconds for which an unanswered request or an unread answer keeps a container awake; longer, and the client is taken
for gone."""


@dataclasses.dataclass(frozen=True, slots=True)
class Seen:
    """Last payload of one port or connection, in seconds on the monotonic clock; 0 = never.

    Attributes:
        incoming: Towards the application.
        outgoing: From it.
        answers: Whether the protocol answers what it is sent (TCP); a datagram alone opens no request.
    """

    incoming: float
    outgoing: float
    answers: bool = True

    @property
    def last(self) -> float:
        """The later of both directions."""
        return max(self.incoming, self.outgoing)

    @property
    def open_since(self) -> float | None:
        """When the request that was not answered yet came in; None without one."""
        return self.incoming if self.answers and self.incoming > self.outgoing else None


@dataclasses.dataclass(frozen=True, slots=True)
class Idle:
    """It may sleep now."""


@dataclasses.dataclass(frozen=True, slots=True)
class Busy:
    """It may not sleep before `until` (monotonic seconds); `because` is for people."""

    until: float
    because: str


def decide(
    now: float,
    *,
    scaledown: float,
    since: float,
    seen: Iterable[Seen],
    sessions: int,
    unsent: int = 0,
) -> Idle | Busy:
    """Whether a container is idle.

    Args:
        now: Monotonic seconds.
        scaledown: Seconds without payload before it may sleep.
        since: When it started or woke, which counts as activity.
        seen: Its listening ports and its own outbound connections.
        sessions: Processes in the container that are not the application's (kubectl exec).
        unsent: Bytes on their way to its peers. Asleep it would not send them, and an ACK does not wake.
    """
    if sessions:
        return Busy(now + scaledown, f"{sessions} exec session(s)")
    ports = list(seen)
    opened = [s.open_since for s in ports if s.open_since is not None]
    if opened and now < max(opened) + MAX_REQUEST:
        # The answer may come at any moment and starts the clock anew; looking once a period is enough.
        return Busy(min(now + scaledown, max(opened) + MAX_REQUEST), "a request is being answered")
    last = max([since, *(s.last for s in ports)])
    if now < last + scaledown:
        return Busy(last + scaledown, f"last traffic {now - last:.0f} s ago")
    if unsent and now < last + MAX_REQUEST:
        return Busy(
            min(now + scaledown, last + MAX_REQUEST),
            f"its peers have not acknowledged {unsent} bytes yet",
        )
    return Idle()
