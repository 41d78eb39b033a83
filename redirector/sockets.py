"""Which sockets a network namespace has, as the kernel's sock_diag tells (sock_diag(7)).

Found again at every call: a server that opens its port after a minute is seen a minute later.

Netlink by hand, because it is asked while an application is frozen: reading /proc/net/tcp walks every bucket of the
kernel's hash table (11 ms for both families on a 24 GB machine with no connection at all, against 1), and pyroute2's
DiagSocket decodes 30 us a socket (30 ms for 1000 connections, against 3).
"""

from __future__ import annotations

import enum
import errno
import socket
import struct
from collections.abc import Container, Iterable, Iterator
from functools import partial
from typing import NamedTuple

from redirector import netlink, netns
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


class Talk(NamedTuple):
    """When payload last went over a connection: seconds ago, None for never.

    From struct tcp_info, in ticks of the kernel's clock (up to 10 ms). A restored connection begins anew.
    """

    last_in: float | None
    last_out: float | None


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
    tx_queue: int = 0
    """Of a connection: bytes that the peer has not acknowledged yet."""
    talk: Talk | None = None
    """Of a TCP connection, when it was asked for."""

    def connection(self) -> Connection:
        """Return both ends as one."""
        return Connection(*self.local, *self.remote)


# linux/netlink.h, linux/sock_diag.h, linux/inet_diag.h
_NETLINK_SOCK_DIAG = 4
_TCPDIAG_GETSOCK = 18
_SOCK_DIAG_BY_FAMILY, _SOCK_DESTROY = 20, 21
_REQUEST = struct.Struct("=BBBBI48x")  # struct inet_diag_req_v2, any socket
_REQUEST_TCP = struct.Struct("=3xB48xI4x")  # struct inet_diag_req, any socket of any family
_MESSAGE = struct.Struct("=BBBBHH16s16sIIIIIIII")  # struct inet_diag_msg; the ports are big endian
_WHICH = struct.Struct("=BBBBI")  # the same before the socket, of which all is named
_INET_DIAG_INFO = 2
_TCP_INFO = struct.Struct("=44xI4xI96xII")  # last_data_{sent,recv}, data_segs_{in,out}
_ALL_STATES = 0xFFFF
_OPEN_STATES = sum(
    1 << state for state in State if state not in {State.TIME_WAIT, State.CLOSE, State.LISTEN}
)
_BUFFER = 1 << 18
_FAMILIES = (socket.AF_INET, socket.AF_INET6)
_V4_MAPPED = bytes(10) + b"\xff\xff"


def _endpoint(family: int, address: bytes, port: int) -> Endpoint:
    if family == socket.AF_INET6 and not address.startswith(_V4_MAPPED):
        return Endpoint(socket.inet_ntop(socket.AF_INET6, address), socket.ntohs(port))
    packed = address[12:] if family == socket.AF_INET6 else address[:4]
    return Endpoint(socket.inet_ntop(socket.AF_INET, packed), socket.ntohs(port))


def parse(buffer: bytes, proto: Protocol) -> Iterator[Socket | None]:
    """Read one receive of a dump's answer; None marks its end.

    Raises:
        OSError: the kernel refused the dump.
    """
    for content in netlink.contents(buffer, "sock_diag"):
        if content is None:
            yield None
            return
        family, state, _, _, sport, dport, local, remote, *rest = _MESSAGE.unpack_from(content)
        rx_queue, tx_queue, inode = rest[4], rest[5], rest[7]
        ends = _endpoint(family, local, sport), _endpoint(family, remote, dport)
        told = dict(netlink.attributes(content[_MESSAGE.size :]))
        talk = _talk(told.get(_INET_DIAG_INFO, b""))
        yield Socket(proto, State(state), *ends, inode, rx_queue, tx_queue, talk)


def _talk(info: bytes) -> Talk | None:
    """Read struct tcp_info, if it is there."""
    if len(info) < _TCP_INFO.size:
        return None
    last_out, last_in, came, went = _TCP_INFO.unpack_from(info)
    return Talk(last_in / 1e3 if came else None, last_out / 1e3 if went else None)


def table(pid: int, *, talks: bool = False) -> list[Socket]:
    """Return the TCP and UDP sockets of the network namespace of `pid`.

    Args:
        pid: any process in the namespace.
        talks: say of TCP connections when they last carried payload, which takes longer.

    Raises:
        OSError: the process is gone.
    """
    return netns.run(pid, lambda: here(talks=talks))


def here(*, talks: bool = False) -> list[Socket]:
    """Return those of the calling thread's own network namespace; needs no privilege."""
    found: list[Socket] = []
    with socket.socket(
        socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_SOCK_DIAG
    ) as diag:
        for proto, kind, request in _requests(talks=talks):
            netlink.ask(diag, kind, request)
            found.extend(netlink.answers(diag, partial(parse, proto=proto), _BUFFER))
    return found


def _requests(*, talks: bool) -> Iterator[tuple[Protocol, int, bytes]]:
    """Iterate over what is asked for, with the type of its message.

    TCP by the older request, which is for all families (net/ipv4/inet_diag.c, inet_diag_dump_compat): each dump walks the hash
    table of all the node's connections, 0.5 ms with 262144 buckets. That of UDP is small.
    """
    extensions = 1 << (_INET_DIAG_INFO - 1) if talks else 0
    yield "tcp", _TCPDIAG_GETSOCK, _REQUEST_TCP.pack(extensions, _ALL_STATES)
    for family in _FAMILIES:
        request = _REQUEST.pack(family, socket.IPPROTO_UDP, extensions, 0, _ALL_STATES)
        yield "udp", _SOCK_DIAG_BY_FAMILY, request


def reset(pid: int, wanted: Container[Connection]) -> None:
    """Have the kernel end TCP connections in the network namespace of `pid`: both sides are told that they are reset.

    A socket is named by its cookie: in the place of one that has gone meanwhile the kernel would find its listener.

    Raises:
        OSError: the process is gone, or the kernel does not do that (CONFIG_INET_DIAG_DESTROY).
    """
    netns.run(pid, lambda: _reset(wanted))


def _reset(wanted: Container[Connection]) -> None:
    with socket.socket(
        socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_SOCK_DIAG
    ) as diag:
        for family in _FAMILIES:
            request = _REQUEST.pack(family, socket.IPPROTO_TCP, 0, 0, _OPEN_STATES)
            netlink.ask(diag, _SOCK_DIAG_BY_FAMILY, request)
            for found, which in list(netlink.answers(diag, _named, _BUFFER)):
                if found in wanted:
                    _destroy(diag, _WHICH.pack(family, socket.IPPROTO_TCP, 0, 0, 0) + which)


def _named(buffer: bytes) -> Iterator[tuple[Connection, bytes] | None]:
    """Read connections, each with its struct inet_diag_sockid."""
    for content in netlink.contents(buffer, "sock_diag"):
        if content is None:
            yield None
            return
        family, _, _, _, sport, dport, local, remote, *_ = _MESSAGE.unpack_from(content)
        ends = _endpoint(family, local, sport), _endpoint(family, remote, dport)
        yield Connection(*ends[0], *ends[1]), content[4:52]


def _destroy(diag: socket.socket, request: bytes) -> None:
    try:
        netlink.order(diag, _SOCK_DESTROY, request, "sock_diag")
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ESTALE):  # it has ended by itself
            raise


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


_UNBORN = (State.SYN_RECV, State.NEW_SYN_RECV)


def pending(sockets: Iterable[Socket], ports: Container[Port]) -> int:
    """Count connections to `ports` that exist and nobody has accepted.

    Half-open ones (SYN_RECV, a TCP_DEFER_ACCEPT listener's included) and those in accept queues,
    which is what the rx_queue of a listener counts.
    """
    count = 0
    for found in sockets:
        if found.proto != "tcp" or Port("tcp", found.local.port) not in ports:
            continue
        if found.state in _UNBORN:
            count += 1
        elif found.state is State.LISTEN:
            count += found.rx_queue
    return count


def lingering(sockets: Iterable[Socket]) -> set[int]:
    """Return the local ports of TCP connections that ended and have no owner any more: TIME_WAIT and those before it."""
    return {
        found.local.port
        for found in sockets
        if found.proto == "tcp" and not found.inode and found.state not in _UNBORN
    }


def unread(sockets: Iterable[Socket], inodes: Container[int]) -> int:
    """Count bytes of datagrams that the owner of `inodes` has not read; criu does not save them."""
    return sum(
        found.rx_queue for found in sockets if found.proto == "udp" and found.inode in inodes
    )


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
