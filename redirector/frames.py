"""Ethernet frames from a TAP: what they are, and whether they are a reason to wake. Pure functions.

Reads the same headers as bpf/packet.h, so that user space and the programs agree about a frame.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Container, Mapping
from types import MappingProxyType
from typing import Literal, NamedTuple

from redirector import pings
from redirector.endpoints import Port, Stream, Wake
from redirector.ignored import Ignored

WHOLE, FIRST, LATER = 0, 1, 2
"""Not a fragment; the fragment with the ports; one without."""

FIN, SYN, RST, PSH, ACK = 0x01, 0x02, 0x04, 0x08, 0x10

_ETHERNET = 14
_MAX_EXTENSIONS = 8
_V4_MAPPED = bytes(10) + b"\xff\xff"
# linux/if_ether.h, linux/in.h, linux/in6.h
_ETH_P_IP, _ETH_P_IPV6 = 0x0800, 0x86DD
_TCP, _UDP = 6, 17
_HOPOPTS, _ROUTING, _FRAGMENT, _DSTOPTS = 0, 43, 44, 60


class Address(NamedTuple):
    """One end: 16 bytes (IPv4 mapped) and a port."""

    ip: bytes
    port: int

    def __str__(self) -> str:
        if self.ip.startswith(_V4_MAPPED):
            return f"{socket.inet_ntop(socket.AF_INET, self.ip[12:])}:{self.port}"
        return f"[{socket.inet_ntop(socket.AF_INET6, self.ip)}]:{self.port}"


def _after(left: int, right: int) -> bool:
    """Compare two sequence numbers, which wrap around."""
    return 0 < (left - right) % (1 << 32) < 1 << 31


class Frame(NamedTuple):
    """A TCP or UDP frame. A later fragment has ports, flags, sequence and payload 0."""

    proto: Literal["tcp", "udp"]
    source: Address
    target: Address
    kind: int
    ident: int
    """Of the datagram, when it is fragmented."""
    flags: int
    seq: int
    payload: int
    """Bytes behind the TCP or UDP header."""
    ping: bool = False
    """The payload only asks, or says, that somebody is there."""

    def is_syn(self) -> bool:
        """Tell whether this opens a new connection."""
        return self.proto == "tcp" and self.kind != LATER and self.flags & (SYN | ACK) == SYN

    def brings(self, stream: Stream | None) -> bool:
        """Tell whether the peer has bytes that the application has not got."""
        if stream is None:
            return self.payload > 0
        if stream.window:
            return self.payload > 0 and _after(self.seq + self.payload, stream.rcv_nxt)
        return self.payload > 0 or _after(stream.rcv_nxt, self.seq)

    def datagram(self) -> tuple[bytes, bytes, int, str]:
        """Return what the fragments of one datagram share."""
        return self.source.ip, self.target.ip, self.ident, self.proto


class _Network(NamedTuple):
    proto: int
    source: bytes
    target: bytes
    kind: int
    ident: int
    offset: int
    """Where the transport header starts."""
    end: int
    """Where the datagram ends; frames may be padded behind it."""


def _ipv4(frame: bytes) -> _Network:
    length, ident, fragment, proto = struct.unpack_from(">xxHHHxB", frame, _ETHERNET)
    source, target = frame[_ETHERNET + 12 : _ETHERNET + 16], frame[_ETHERNET + 16 : _ETHERNET + 20]
    kind = WHOLE
    if fragment & 0x3FFF:
        kind = LATER if fragment & 0x1FFF else FIRST
    offset = _ETHERNET + (frame[_ETHERNET] & 0x0F) * 4
    end = _ETHERNET + length if length else len(frame)
    return _Network(proto, _V4_MAPPED + source, _V4_MAPPED + target, kind, ident, offset, end)


def _ipv6(frame: bytes) -> _Network:
    length, following = struct.unpack_from(">4xHB", frame, _ETHERNET)
    source, target = frame[_ETHERNET + 8 : _ETHERNET + 24], frame[_ETHERNET + 24 : _ETHERNET + 40]
    offset = _ETHERNET + 40
    end = offset + length if length else len(frame)
    kind, ident = WHOLE, 0
    for _ in range(_MAX_EXTENSIONS):
        if following not in (_HOPOPTS, _ROUTING, _FRAGMENT, _DSTOPTS):
            break
        this, (following, size, where) = following, struct.unpack_from(">BBH", frame, offset)
        if this != _FRAGMENT:
            offset += (size + 1) * 8
            continue
        if where & 0xFFF9:  # else an atomic fragment, RFC 6946
            kind = LATER if where & 0xFFF8 else FIRST
            (ident,) = struct.unpack_from(">4xI", frame, offset)
        offset += 8
        if kind == LATER:
            break
    return _Network(following, source, target, kind, ident, offset, end)


def _parse(frame: bytes) -> Frame | None:
    (ethertype,) = struct.unpack_from(">12xH", frame)
    if ethertype == _ETH_P_IP:
        net = _ipv4(frame)
    elif ethertype == _ETH_P_IPV6:
        net = _ipv6(frame)
    else:
        return None
    if net.proto not in (_TCP, _UDP):
        return None
    proto: Literal["tcp", "udp"] = "tcp" if net.proto == _TCP else "udp"
    if net.kind == LATER:
        ends = Address(net.source, 0), Address(net.target, 0)
        return Frame(proto, *ends, LATER, net.ident, 0, 0, 0)
    sport, dport = struct.unpack_from(">HH", frame, net.offset)
    ends = Address(net.source, sport), Address(net.target, dport)
    if proto == "udp":
        return Frame(proto, *ends, net.kind, net.ident, 0, 0, max(net.end - net.offset - 8, 0))
    seq, size, flags = struct.unpack_from(">4xI4xBB", frame, net.offset)
    data = net.offset + (size >> 4) * 4
    payload = max(net.end - data, 0)
    whole = net.kind == WHOLE and payload <= pings.LONGEST
    ping = whole and pings.is_ping(frame[data : net.end])
    return Frame(proto, *ends, net.kind, net.ident, flags, seq, payload, ping)


def parse(frame: bytes) -> Frame | None:
    """Read an Ethernet frame; None for what is neither TCP nor UDP, or cut short."""
    try:
        return _parse(frame)
    except struct.error:
        return None


class Claims(NamedTuple):
    """What a container holds: its ports, and its connections as (local, remote) with how they stand.

    What comes to `quiet` ports or from `ignored` peers is held with the rest and wakes nobody.
    """

    ports: Container[Port] = frozenset()
    connections: Mapping[tuple[Address, Address], Stream | None] = MappingProxyType({})
    quiet: Container[Port] = frozenset()
    ignored: Ignored = Ignored()

    def holds(self, frame: Frame) -> bool:
        """Tell whether a frame with ports is for this container."""
        if Port(frame.proto, frame.target.port) in self.ports:
            return True
        return frame.proto == "tcp" and (frame.target, frame.source) in self.connections

    def ignores(self, frame: Frame) -> bool:
        """Tell whether a frame is held only to be answered with the others; a later fragment shows its peer only."""
        port = Port(frame.proto, frame.target.port)
        return port in self.quiet or self.ignored.has(frame.source.ip)

    def wake(self, frame: Frame) -> Wake | None:
        """Return the reason to wake that a frame is, if any.

        A SYN to a port, payload on a connection, a datagram to a port; a peer's look at a window
        that is closed, behind which it has payload. Not pure ACK, keepalive, FIN, RST: these wait
        for the replay. A keepalive with one garbage byte cannot be told from data without the
        connection's state, and wakes.
        """
        if frame.kind == LATER or self.ignores(frame):
            return None
        port = Port(frame.proto, frame.target.port)
        if frame.proto == "udp":
            return Wake("udp", str(frame.source), port) if port in self.ports else None
        if frame.is_syn():
            return Wake("tcp-connect", str(frame.source), port) if port in self.ports else None
        if frame.flags & (SYN | RST):
            return None
        ends = frame.target, frame.source
        if ends in self.connections and frame.brings(self.connections[ends]):
            return Wake("tcp-ping" if frame.ping else "tcp-data", str(frame.source), port)
        return None
