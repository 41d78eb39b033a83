"""Frames byte by byte: what they are, and which of them wake."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from unit.redirector.packets import (
    ETHERNET,
    ICMP,
    ICMP6,
    TCP,
    UDP,
    ipv4,
    ipv6,
    tcp_header,
    udp_header,
)

from bpf import maps
from redirector import frames
from redirector.endpoints import Port, Stream, Wake
from redirector.frames import ACK, FIN, FIRST, LATER, PSH, RST, SYN, WHOLE, Address, Claims
from redirector.ignored import Ignored

MORE, DONT_FRAGMENT = 0x2000, 0x4000
PADN = bytes([1, 4, 0, 0, 0, 0])


def address(text: str, port: int) -> Address:
    return Address(maps.pack_address(text), port)


CONNECTION = (address("10.0.0.2", 6379), address("10.0.0.1", 4242))
CLAIMS = Claims(frozenset([Port("tcp", 6379), Port("udp", 53)]), {CONNECTION: None})


def segment(
    flags: int, data: bytes = b"", *, dport: int = 6379, sport: int = 4242, **ip: int
) -> bytes:
    return ipv4(tcp_header(sport, dport, flags=flags) + data, TCP, fragment=DONT_FRAGMENT, **ip)


def test_a_segment_is_read_with_its_ends_and_payload():
    """Addresses, ports, flags, sequence and the length of the data come out of a plain segment."""
    frame = frames.parse(segment(PSH | ACK, b"hello"))
    assert frame is not None
    assert (frame.proto, frame.kind, frame.flags, frame.seq) == ("tcp", WHOLE, PSH | ACK, 100)
    assert str(frame.source) == "10.0.0.1:4242"
    assert str(frame.target) == "10.0.0.2:6379"
    assert frame.payload == 5


def test_padding_behind_a_datagram_is_no_payload():
    """A bare ACK padded to Ethernet's minimum carries nothing."""
    frame = frames.parse(segment(ACK, padding=6))
    assert frame is not None
    assert frame.payload == 0


def test_a_packet_too_long_for_its_length_field_is_measured_by_the_frame():
    """A total length of zero is a packet above 64 KB (BIG TCP); the data is all there is."""
    raw = bytearray(segment(ACK, bytes(40_000)))
    raw[16:18] = b"\0\0"
    frame = frames.parse(bytes(raw))
    assert frame is not None
    assert frame.payload == len(raw) - 54


@pytest.mark.parametrize("words", [1, 10])
def test_ip_and_tcp_options_are_skipped(words: int):
    """Ports and payload are found behind options of any length."""
    body = tcp_header(1, 2, flags=ACK, options=words) + b"data"
    frame = frames.parse(ipv4(body, TCP, options=b"\1" * 4 * words))
    assert frame is not None
    assert (frame.source.port, frame.target.port, frame.payload) == (1, 2, 4)


def extension(following: int, size: int = 0) -> bytes:
    """Return an options header of 8 * (size + 1) bytes."""
    return bytes([following, size]) + PADN + bytes(8 * size)


@pytest.mark.parametrize(
    ("chain", "first"),
    [
        (b"", UDP),
        (extension(UDP), 0),
        (extension(43) + extension(60, 2) + extension(UDP, 1), 0),
        (bytes([UDP, 0, 0, 0]) + bytes(4), 44),
    ],
    ids=["none", "hop-by-hop", "three", "atomic-fragment"],
)
def test_extension_headers_are_walked(chain: bytes, first: int):
    """Hop-by-hop, routing, destination options and an atomic fragment do not hide the ports."""
    frame = frames.parse(ipv6(chain + udp_header(5, 53, 3) + b"abc", first))
    assert frame is not None
    assert (frame.proto, frame.kind, frame.target.port, frame.payload) == ("udp", WHOLE, 53, 3)
    assert str(frame.source) == "[fd00::1]:5"


def test_ipv4_fragments_know_their_datagram():
    """The first has the ports, the later ones share source, target, number and protocol."""
    first = frames.parse(ipv4(udp_header(5, 53) + b"x" * 8, UDP, fragment=MORE, ident=7))
    later = frames.parse(ipv4(b"y" * 8, UDP, fragment=MORE | 2, ident=7))
    last = frames.parse(ipv4(b"z", UDP, fragment=3, ident=7))
    other = frames.parse(ipv4(b"z", UDP, fragment=3, ident=8))
    assert first
    assert later
    assert last
    assert other
    assert (first.kind, later.kind, last.kind) == (FIRST, LATER, LATER)
    assert first.datagram() == later.datagram() == last.datagram() != other.datagram()
    assert later.target.port == 0


def test_ipv6_fragments_know_their_datagram():
    """The same with a fragment header."""

    def fragment(where: int, ident: int) -> bytes:
        return struct.pack("!BBHI", UDP, 0, where, ident)

    first = frames.parse(ipv6(fragment(1, 9) + udp_header(5, 53) + b"x" * 8, 44))
    later = frames.parse(ipv6(fragment(16 | 1, 9) + b"y" * 8, 44))
    assert first
    assert later
    assert (first.kind, later.kind) == (FIRST, LATER)
    assert first.datagram() == later.datagram()


@pytest.mark.parametrize(
    "raw",
    [
        ETHERNET + b"\x08\x06" + bytes(28),
        ipv4(bytes(8), ICMP),
        ipv6(bytes(24), ICMP6),
        b"",
        segment(SYN)[:40],
        ipv6(extension(60), 0),
    ],
    ids=["arp", "icmp", "neighbour-discovery", "empty", "cut", "chain-without-end"],
)
def test_what_is_neither_tcp_nor_udp_is_nothing(raw: bytes):
    """Other protocols and broken frames are not ours to understand."""
    assert frames.parse(raw) is None


@pytest.mark.parametrize(
    ("raw", "wake"),
    [
        (segment(SYN), Wake("tcp-connect", "10.0.0.1:4242", Port("tcp", 6379))),
        (segment(PSH | ACK, b"x"), Wake("tcp-data", "10.0.0.1:4242", Port("tcp", 6379))),
        (segment(PSH | ACK, b"\xc0\0"), Wake("tcp-ping", "10.0.0.1:4242", Port("tcp", 6379))),
        (segment(FIN | ACK, b"bye"), Wake("tcp-data", "10.0.0.1:4242", Port("tcp", 6379))),
        (
            ipv4(udp_header(9, 53), UDP),
            Wake("udp", "10.0.0.1:9", Port("udp", 53)),
        ),
        (
            ipv4(udp_header(9, 53) + b"x" * 8, UDP, fragment=MORE),
            Wake("udp", "10.0.0.1:9", Port("udp", 53)),
        ),
    ],
    ids=["syn", "payload", "ping", "payload-and-fin", "datagram", "first-fragment"],
)
def test_reasons_to_wake(raw: bytes, wake: Wake):
    """A new connection, bytes on an open one, a datagram: each with its source and port."""
    frame = frames.parse(raw)
    assert frame is not None
    assert CLAIMS.wake(frame) == wake


@pytest.mark.parametrize(
    "raw",
    [
        segment(ACK),
        segment(FIN | ACK),
        segment(RST),
        segment(RST | ACK, b"why"),
        segment(SYN | ACK),
        segment(SYN, dport=80),
        segment(PSH | ACK, b"x", sport=1),
        ipv4(udp_header(9, 6379), UDP),
        ipv4(b"z", UDP, fragment=3),
    ],
    ids=[
        "ack-or-keepalive",
        "fin",
        "rst",
        "rst-with-text",
        "syn-ack",
        "other-port",
        "unknown-connection",
        "udp-to-a-tcp-port",
        "later-fragment",
    ],
)
def test_no_reasons_to_wake(raw: bytes):
    """What only closes, acknowledges or concerns others lets the container sleep."""
    frame = frames.parse(raw)
    assert frame is not None
    assert CLAIMS.wake(frame) is None


@pytest.mark.parametrize(
    "raw", [segment(SYN), segment(PSH | ACK, b"x"), ipv4(udp_header(9, 53), UDP)]
)
@pytest.mark.parametrize(
    "kept_quiet",
    [
        {"ignored": Ignored.of(["10.0.0.0/24"])},
        {"quiet": {Port("tcp", 6379), Port("udp", 53)}},
    ],
    ids=["peer", "port"],
)
def test_what_is_ignored_is_held_and_wakes_nobody(raw: bytes, kept_quiet: dict[str, Any]):
    """By its sender's address or by the port; it is the container's all the same."""
    frame = frames.parse(raw)
    assert frame is not None
    claims = CLAIMS._replace(**kept_quiet)
    assert claims.wake(frame) is None
    assert claims.holds(frame)


STREAM = Stream(500, 500, 101, 65535, 0, None, None)


@pytest.mark.parametrize(
    ("data", "window", "wakes"),
    [
        (b"", 65535, False),  # seq 100, one too early: a keepalive
        (b"x", 65535, False),  # with a byte that was received long ago
        (b"xy", 65535, True),  # and one that was not
        (b"", 0, True),  # the peer looks whether it may send again
        (b"x", 0, True),
    ],
)
def test_with_the_connections_state_only_news_wakes(data: bytes, window: int, wakes: bool):
    """Bytes that the application has got are none; a peer in front of a closed window has some."""
    claims = Claims(frozenset(), {CONNECTION: STREAM._replace(window=window)})
    frame = frames.parse(segment(ACK, data))
    assert frame is not None
    assert (claims.wake(frame) is not None) == wakes


def test_sequence_numbers_wrap_around():
    """A byte at 0 comes after one at 2^32 - 1."""
    claims = Claims(frozenset(), {CONNECTION: STREAM._replace(rcv_nxt=(1 << 32) - 1)})
    frame = frames.parse(segment(ACK, b"x"))
    assert frame is not None
    assert claims.wake(frame) is not None
