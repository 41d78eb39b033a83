"""What a container's traffic was, from the datapath's clocks and the kernel's own tables."""

import functools
import time
from collections.abc import Collection, Iterator
from collections.abc import Container as Contains

from checkpointer.container import Container
from checkpointer.idle import Asks, Seen
from redirector import sockets
from redirector.clocks import REST
from redirector.endpoints import Activity, Connection, Port
from redirector.sockets import Endpoint, Socket, State

CLOCK = 1e9
"""The datapath's times are nanoseconds."""

MAX_PORTS = 1024
"""Ports of a container that may sleep, and of the rest of its pod. The datapath's tables are the whole node's: a pod that
listened on all that it has would leave the others none."""


class Traffic:
    """One look at the traffic of a container.

    A port alone does not tell that one of two clients still waits for its answer; a connection alone, whose clock
    ticks every few milliseconds, does not tell a question from the answer right before it. So both are looked at.

    Attributes:
        table: Of the container's network namespace, with talks.
        inodes: Of its sockets.
    """

    def __init__(self, container: Container, table: list[Socket], inodes: Contains[int]) -> None:
        self.table = table
        self.inodes = inodes
        self._container = container  # whose `ports` are known
        self._own = [found for found in table if found.inode in inodes]
        self._heeded = container.heeded
        self._now = time.monotonic()

    def seen(self) -> tuple[Seen, ...]:
        """Its ports, and its connections in both directions, but those that it ignores."""
        return (*self._ports(), *self._talks(ignored=False))

    def ignored(self) -> tuple[Seen, ...]:
        """Connections of ignored peers and to ports that are not heeded, but not the kubelet's."""
        return tuple(self._talks(ignored=True))

    def kubelet(self) -> tuple[Seen, ...]:
        """Open connections of the kubelet: of its probes, which are no traffic, and of its hooks."""
        return tuple(
            self._talk(found)
            for found in self._own
            if found.state is State.ESTABLISHED and self._is_kubelets(found)
        )

    def unsent(self, *, ignored: bool) -> int:
        """Bytes on their way to its peers."""
        return sum(found.tx_queue for found in self._connections(ignored=ignored))

    def opening(self) -> int:
        """Connections that it tries to open; the answer to its SYN would not wake it."""
        return sum(found.state is State.SYN_SENT for found in self._connections(ignored=False))

    def inbound(self) -> int:
        """Open connections of its clients, but those that it ignores."""
        return sum(
            found.state is State.ESTABLISHED and self._serves(found)
            for found in self._connections(ignored=False)
        )

    def clients(self) -> frozenset[Connection]:
        """Connections of its clients, also those that are ending, but not those that it ignores."""
        found = self._connections(ignored=False)
        return frozenset(client.connection() for client in found if self._serves(client))

    def silent(self) -> frozenset[int]:
        """Inodes of its clients' connections on which nobody waits for an answer, or has for too long."""
        return frozenset(
            found.inode
            for found in self._own
            if found.proto == "tcp"
            and found.state in {State.ESTABLISHED, State.CLOSE_WAIT}
            and self._serves(found)
            and not self._asked(found)
        )

    def _asked(self, found: Socket) -> bool:
        since = self._talk(found).open_since
        return since is not None and self._now < since + self._container.record.policy.max_request

    def came_after(self, moment: float) -> Port | None:
        """A port to which payload came after a moment (monotonic seconds), None if there is none.

        What goes out does not count: while everything is held, ACKs are too, and the kernel sends the last answer
        again.
        """
        for port, times in self._activity().items():
            if times.last_in / CLOCK > moment:
                return port
        return None

    def pinged_after(self, moment: float) -> bool:
        """Whether the pod was pinged after a moment (monotonic seconds): no activity, but somebody waits for the answer."""
        return self._container.pod.pinged() / CLOCK > moment

    def _ports(self) -> Iterator[Seen]:
        peers = {_port(found): found.remote for found in self._own}
        for port, times in self._activity().items():
            asks = Asks.PEER if port in self._heeded else Asks.APPLICATION
            where = f"{port.proto}/{port.number}"
            if port in REST:
                where = f"{port.proto} to somebody else"
            elif port not in self._heeded and peers[port].port:
                where = f"{port.proto} with {_shown(peers[port])}"
            if port.proto == "udp" or port in REST:
                asks = Asks.NOBODY
            yield Seen(times.last_in / CLOCK, times.last_out / CLOCK, asks, where)

    def _talks(self, *, ignored: bool) -> Iterator[Seen]:
        found = list(self._connections(ignored=ignored))
        pinged = self._container.pod.talks(one.connection() for one in found if one.talk)
        for one in found:
            times = pinged.get(one.connection())
            yield self._talk_between_pings(one, times) if times else self._talk(one)

    def _talk(self, found: Socket) -> Seen:
        came, went = (found.talk.last_in, found.talk.last_out) if found.talk else (None, None)
        return Seen(
            self._now - came if came is not None else 0.0,
            self._now - went if went is not None else 0.0,
            self._asks(found),
            f"tcp with {_shown(found.remote)}",
        )

    def _talk_between_pings(self, found: Socket, times: Activity) -> Seen:
        """By the datapath's clocks: the kernel's own know no pings."""
        came, went = times.last_in / CLOCK, times.last_out / CLOCK
        # What was before a sleep is over; the kernel's clocks begin anew with a restore.
        asleep = self._container.quiet if self._container.woke > self._container.quiet else 0.0
        return Seen(
            came if came > asleep else 0.0,
            went if went > asleep else 0.0,
            self._asks(found),
            f"tcp with {_shown(found.remote)}",
        )

    def _asks(self, found: Socket) -> Asks:
        return Asks.PEER if self._serves(found) else Asks.APPLICATION

    def _activity(self) -> dict[Port, Activity]:
        """By port: those that are heeded, those from which it calls others, and those from which it did.

        The last cannot be told from those of other containers in the pod, and are left out where there are any.
        """
        calling = {
            _port(found)
            for found in self._own
            if found.local.port and _port(found) not in self._container.ports
        }
        rest = REST if self._container.alone() else ()
        return self._container.pod.activity(
            {*self._heeded, *calling, *rest}, kept=[*REST, *self._container.ports]
        )

    def _connections(self, *, ignored: bool) -> Iterator[Socket]:
        for found in self._own:
            if (
                found.proto == "tcp"
                and found.state is not State.LISTEN
                and not self._is_kubelets(found)
                and self._ignores(found) == ignored
            ):
                yield found

    @functools.cached_property
    def _calls(self) -> frozenset[Connection]:
        served = (
            found.connection()
            for found in self._own
            if found.proto == "tcp" and found.state is not State.LISTEN and self._serves(found)
        )
        return self._container.pod.calls(served)

    def _is_kubelets(self, found: Socket) -> bool:
        return found.proto == "tcp" and found.connection() in self._calls

    def _ignores(self, found: Socket) -> bool:
        unheeded = self._serves(found) and _port(found) not in self._heeded
        return unheeded or self._container.pod.ignored.has_ip(found.remote.ip)

    def _serves(self, found: Socket) -> bool:
        return _port(found) in self._container.ports


def listening(
    container: Container, table: list[Socket], inodes: Contains[int]
) -> tuple[frozenset[Port], frozenset[Port]]:
    """The ports that it serves, and those from which it only asks by datagram.

    An unconnected UDP socket whose port the kernel chose is a client's; nothing but the kernel's own memory tells such
    a port from one that was asked for by its number. So one that is among those that the kernel chooses, and that sent
    before anything came, is taken for a client's, unless the policy names it.
    """
    found = frozenset(sockets.listening(table, inodes))
    named = container.record.policy.ports
    doubtful = {p for p in found if p.proto == "udp" and f"udp/{p.number}" not in named}
    asking = frozenset(container.pod.callers(doubtful)) if doubtful else frozenset()
    return found - asking, asking


def crowded(ports: Collection[Port], others: Collection[Port] = ()) -> str:
    """Why a container with so many ports, beside those of the rest of its pod, cannot be put to sleep; "" if it can."""
    if len(ports) > MAX_PORTS:
        return (
            f"it listens on {len(ports)} ports, of which at most {MAX_PORTS} can be held; let it listen on fewer, or set its "
            "zeropod.ctrox.dev/scaledown-duration to 0"
        )
    if len(others) > MAX_PORTS:
        return (
            f"the rest of its pod listens on {len(others)} ports, of which at most {MAX_PORTS} can be told from its own "
            "while it is put to sleep; let the other containers listen on fewer"
        )
    return ""


def _shown(end: Endpoint) -> str:
    return f"[{end.ip}]:{end.port}" if ":" in end.ip else f"{end.ip}:{end.port}"


def _port(found: Socket) -> Port:
    return Port(found.proto, found.local.port)
