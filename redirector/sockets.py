"""Which sockets a network namespace has, from the text of /proc/PID/net/{tcp,tcp6,udp,udp6}.

Found again at every call: a server that opens its port after a minute is seen a minute later.
"""

from __future__ import annotations

import enum
import socket
import struct
from collections.abc import Container, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from redirector.endpoints import Connection, Others, Port, Protocol


class State(enum.IntEnum):
    """include/net/tcp_states.h; an unconnected UDP socket is CLOSE, a connected one ESTABLISHED."""

    ESTABLISHED = 1
    SYN_SENT = 2
    SYN_RECV = 3
    FIN_WAIT1 = 4
    FIN_WAIT2 = 5
    TIME_WAIT = 6
    CLOSE = 7
    CLOSE_WAIT = 8
    LAST_ACK = 9
    LISTEN = 10
    CLOSING = 11
    NEW_SYN_RECV = 12


class Endpoint(NamedTuple):
    """An address as text and a port; an IPv4-mapped address is given as IPv4."""

    ip: str
    port: int


class Socket(NamedTuple):
    """One line of a table."""

    proto: Protocol
    state: State
    local: Endpoint
    remote: Endpoint
    inode: int
    """0 when no process owns it: not accepted yet, or in TIME_WAIT."""
    rx_queue: int
    """Bytes not read yet; of a listener, connections not accepted yet."""

    def connection(self) -> Connection:
        """Return both ends as one."""
        return Connection(*self.local, *self.remote)


_FILES: tuple[tuple[str, Protocol], ...] = (
    ("tcp", "tcp"),
    ("tcp6", "tcp"),
    ("udp", "udp"),
    ("udp6", "udp"),
)
_V4_MAPPED = bytes(10) + b"\xff\xff"


def _address(digits: str) -> str:
    """Return the text of an address: 32-bit words in host byte order, each printed as a number."""
    words = (int(digits[at : at + 8], 16) for at in range(0, len(digits), 8))
    packed = b"".join(struct.pack("=I", word) for word in words)
    if len(packed) == 4:
        return socket.inet_ntop(socket.AF_INET, packed)
    if packed.startswith(_V4_MAPPED):
        return socket.inet_ntop(socket.AF_INET, packed[12:])
    return socket.inet_ntop(socket.AF_INET6, packed)


def _endpoint(text: str) -> Endpoint:
    digits, _, port = text.partition(":")
    return Endpoint(_address(digits), int(port, 16))


def parse(text: str, proto: Protocol) -> Iterator[Socket]:
    """Read one table; its first line is the heading."""
    for line in text.splitlines()[1:]:
        fields = line.split()
        _, local, remote, state, queues, _, _, _, _, inode = fields[:10]
        rx_queue = int(queues.partition(":")[2], 16)
        ends = _endpoint(local), _endpoint(remote)
        yield Socket(proto, State(int(state, 16)), *ends, int(inode), rx_queue)


def table(pid: int) -> list[Socket]:
    """Return the TCP and UDP sockets of the network namespace of `pid`.

    Raises:
        OSError: the process is gone.
    """
    found: list[Socket] = []
    for name, proto in _FILES:
        try:
            text = Path(f"/proc/{pid}/net/{name}").read_text()
        except FileNotFoundError:
            if not name.endswith("6") or not Path(f"/proc/{pid}").exists():
                raise
            continue  # a kernel booted with ipv6.disable=1
        found.extend(parse(text, proto))
    return found


def listening(sockets: Iterable[Socket], inodes: Container[int]) -> set[Port]:
    """Return the ports that the owner of `inodes` serves: TCP listeners, UDP sockets without a peer."""
    return {
        Port(found.proto, found.local.port)
        for found in sockets
        if found.inode in inodes and _serves(found)
    }


def _serves(found: Socket) -> bool:
    if found.proto == "tcp":
        return found.state is State.LISTEN
    return found.state is State.CLOSE and found.local.port != 0


def pending(sockets: Iterable[Socket], ports: Container[Port]) -> int:
    """Count connections to `ports` that exist and nobody has accepted.

    Half-open ones (SYN_RECV, a TCP_DEFER_ACCEPT listener's included) and those in accept queues,
    which is what the rx_queue of a listener counts.
    """
    count = 0
    for found in sockets:
        if found.proto != "tcp" or Port("tcp", found.local.port) not in ports:
            continue
        if found.state in (State.SYN_RECV, State.NEW_SYN_RECV):
            count += 1
        elif found.state is State.LISTEN:
            count += found.rx_queue
    return count


def connections(sockets: Iterable[Socket], inodes: Container[int]) -> set[Connection]:
    """Return the TCP connections that the owner of `inodes` has open."""
    return {
        found.connection()
        for found in sockets
        if found.proto == "tcp" and found.inode in inodes and found.state is not State.LISTEN
    }


def others(sockets: Iterable[Socket], inodes: Container[int]) -> Others:
    """Return what belongs to everybody but the owner of `inodes`: let through while that is frozen.

    Sockets without an owner are left out: a connection that was not accepted yet may be the
    frozen container's, and one in TIME_WAIT can wait for the replay.
    """
    rest = [found for found in sockets if found.inode and found.inode not in inodes]
    rest_inodes = {found.inode for found in rest}
    udp = {Port("udp", found.local.port) for found in rest if found.proto == "udp"}
    ports = listening(rest, rest_inodes) | udp
    own = {Port(s.proto, s.local.port) for s in sockets if s.inode in inodes and _serves(s)}
    return Others(frozenset(ports - own), frozenset(connections(rest, rest_inodes)))
