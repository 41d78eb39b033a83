"""Frames made byte by byte."""

from __future__ import annotations

import socket
import struct

ETHERNET = bytes(12)
TCP, UDP, ICMP, ICMP6 = 6, 17, 1, 58


def tcp_header(sport: int, dport: int, *, flags: int, seq: int = 100, options: int = 0) -> bytes:
    """Return a TCP header with `options` words of no-operation."""
    offset = (5 + options) << 4
    return (
        struct.pack("!HHIIBBHHH", sport, dport, seq, 0, offset, flags, 0, 0, 0)
        + b"\1" * 4 * options
    )


def udp_header(sport: int, dport: int, length: int = 0) -> bytes:
    """Return a UDP header."""
    return struct.pack("!HHHH", sport, dport, 8 + length, 0)


def ipv4(
    body: bytes,
    proto: int,
    *,
    source: str = "10.0.0.1",
    target: str = "10.0.0.2",
    options: bytes = b"",
    fragment: int = 0,
    ident: int = 0,
    padding: int = 0,
) -> bytes:
    """Return an Ethernet frame; `fragment` is flags and offset, `padding` follows the datagram."""
    words = 5 + len(options) // 4
    length = words * 4 + len(body)
    head = struct.pack("!BBHHHBBH", 0x40 | words, 0, length, ident, fragment, 64, proto, 0)
    addresses = socket.inet_aton(source) + socket.inet_aton(target)
    return ETHERNET + b"\x08\x00" + head + addresses + options + body + bytes(padding)


def ipv6(
    body: bytes,
    following: int,
    *,
    source: str = "fd00::1",
    target: str = "fd00::2",
    padding: int = 0,
) -> bytes:
    """Return an Ethernet frame; extension headers are part of `body`."""
    head = struct.pack("!IHBB", 6 << 28, len(body), following, 64)
    addresses = b"".join(socket.inet_pton(socket.AF_INET6, text) for text in (source, target))
    return ETHERNET + b"\x86\xdd" + head + addresses + body + bytes(padding)
