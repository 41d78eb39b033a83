"""A segment of ours as one IP packet: a keepalive, a reset. Pure functions; redirector/frames.py reads what this writes."""

from __future__ import annotations

import ipaddress
import socket
import struct

from redirector.endpoints import Connection, Stream
from redirector.frames import ACK, RST

_TIMESTAMP = struct.Struct(">BBBBII")
_NOP, _KIND, _LENGTH = 1, 8, 10
_TTL = 64
_DONT_FRAGMENT = 0x4000
_MAX_WINDOW = 0xFFFF


def _checksum(data: bytes) -> int:
    """Return the Internet checksum (RFC 1071)."""
    data += b"\0" * (len(data) % 2)
    total: int = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def addresses(connection: Connection) -> tuple[bytes, bytes]:
    """Return both ends as they are in a packet: 4 bytes also for an IPv4-mapped address."""
    return _packed(connection.local_ip), _packed(connection.remote_ip)


def _packed(text: str) -> bytes:
    address = ipaddress.ip_address(text.partition("%")[0])
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).packed


def tcp(
    connection: Connection, stream: Stream, seq: int, payload: bytes = b"", *, flags: int = ACK
) -> bytes:
    """Return a segment of `connection` as an IP packet; `seq`, payload and flags are all that it chooses."""
    options = b""
    if stream.tsval is not None:
        # The image does not keep the peer's clock. Zero is what the restored socket sends until it hears it again.
        options = _TIMESTAMP.pack(_NOP, _NOP, _KIND, _LENGTH, stream.tsval, 0)
    words = 5 + len(options) // 4
    header = struct.pack(
        ">HHIIBBHHH",
        connection.local_port,
        connection.remote_port,
        seq % (1 << 32),
        stream.rcv_nxt,
        words << 4,
        flags,
        min(stream.window >> stream.shift, _MAX_WINDOW),
        0,
        0,
    )
    here, there = addresses(connection)
    segment = header + options + payload
    pseudo = here + there + struct.pack(">II", len(segment), socket.IPPROTO_TCP)
    checked = segment[:16] + struct.pack(">H", _checksum(pseudo + segment)) + segment[18:]
    if len(here) == 4:
        ip = struct.pack(
            ">BBHHHBBH", 0x45, 0, 20 + len(checked), 0, _DONT_FRAGMENT, _TTL, socket.IPPROTO_TCP, 0
        )
        ip += here + there
        return ip[:10] + struct.pack(">H", _checksum(ip)) + ip[12:] + checked
    ip = struct.pack(">IHBB", 6 << 28, len(checked), socket.IPPROTO_TCP, _TTL)
    return ip + here + there + checked


def keepalive(connection: Connection, stream: Stream) -> bytes:
    """Return what the kernel sends when the connection was quiet for long: nothing, one byte too early."""
    return tcp(connection, stream, stream.snd_una - 1)


def resets(connection: Connection, stream: Stream) -> list[bytes]:
    """Return what ends the connection at its peer, whether that has got what it has not acknowledged or not.

    It believes a reset at the very byte that it expects (RFC 5961), whatever its time (RFC 7323, 5.2).
    """
    at = sorted({stream.snd_una, stream.snd_nxt})
    return [tcp(connection, stream, seq, flags=RST | ACK) for seq in at]
