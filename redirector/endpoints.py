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

    kind: Literal["tcp-connect", "tcp-data", "udp"]
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
    mode: Literal["off", "syns", "everything", "set"]
    draining: bool
    ports: frozenset[Port]
    connections: frozenset[Connection]
