"""The redirector's vocabulary: ports, connections, and what is reported about them."""

from __future__ import annotations

from typing import Literal, NamedTuple

Protocol = Literal["tcp", "udp"]


class Port(NamedTuple):
    """A local port, on any address."""

    proto: Protocol
    number: int

    def __str__(self) -> str:
        return f"{self.number}/{self.proto}"


class Connection(NamedTuple):
    """One TCP connection as the pod sees it; addresses as text, IPv4-mapped ones as IPv4 or mapped."""

    local_ip: str
    local_port: int
    remote_ip: str
    remote_port: int


class Keepalive(NamedTuple):
    """SO_KEEPALIVE as an application has set it, see tcp(7): seconds, and how often."""

    idle: int
    interval: int
    tries: int


class Stream(NamedTuple):
    """How a connection stands while its socket is in an image: what keeps it alive is made of this."""

    snd_una: int
    """The first byte that the peer has not acknowledged."""
    snd_nxt: int
    """The next byte that we send."""
    rcv_nxt: int
    """The next byte that we expect."""
    window: int
    """Bytes that the peer may send from there on."""
    shift: int
    """Scale of the window in a header."""
    tsval: int | None
    """The clock of our timestamps, which stands still until the restore; None when they are not in use."""
    keepalive: Keepalive | None
    """None when the application has not asked for it."""


class Others(NamedTuple):
    """Sockets of the pod's other containers, let through while one of them is frozen."""

    ports: frozenset[Port] = frozenset()
    connections: frozenset[Connection] = frozenset()


class Activity(NamedTuple):
    """When payload last went in and out of a port: ns of CLOCK_MONOTONIC, 0 for never."""

    last_in: int
    last_out: int


class Wake(NamedTuple):
    """Why a sleeping container is to be woken."""

    kind: Literal["tcp-connect", "tcp-data", "tcp-ping", "udp"]
    source: str
    """Who sent it: "10.0.0.1:4242" or "[fd00::1]:4242"."""
    port: Port
    """The container's own port."""


class ReplayResult(NamedTuple):
    """What a replay did: frames written back, frames given up (bounds, copies), milliseconds."""

    frames: int
    dropped: int
    ms: float


class Held(NamedTuple):
    """One hold as the pinned maps tell it, e.g. after a restart of the daemon."""

    sandbox_id: str
    container_id: str
    mode: Literal["off", "syns", "everything", "set", "live"]
    draining: bool
    ports: frozenset[Port]
    connections: frozenset[Connection]
