"""A keepalive of ours, and a reset, read back."""

from __future__ import annotations

import struct

import pytest
from unit.redirector.packets import ETHERNET

from redirector import frames, segments
from redirector.endpoints import Connection, Stream
from redirector.frames import ACK, RST

STREAM = Stream(7000, 7000, 100, 1 << 20, 7, 123456, None)


def checksum(data: bytes) -> int:
    """0 for data that contains its own checksum."""
    total = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return 0xFFFF - total


@pytest.mark.parametrize(
    ("here", "there", "kind", "header"),
    [
        ("10.0.0.2", "10.0.0.1", b"\x08\x00", 20),
        ("::ffff:10.0.0.2", "10.0.0.1", b"\x08\x00", 20),
        ("fd00::2", "fd00::1", b"\x86\xdd", 40),
    ],
)
@pytest.mark.parametrize("tsval", [123456, None])
def test_a_keepalive_is_one_byte_too_early_and_empty(
    here: str, there: str, kind: bytes, header: int, tsval: int | None
):
    """It has the right ends, numbers and checksums, for every kind of address."""
    stream = STREAM._replace(tsval=tsval)
    packet = segments.keepalive(Connection(here, 80, there, 4242), stream)
    frame = frames.parse(ETHERNET + kind + packet)
    assert frame is not None
    assert (frame.source.port, frame.target.port) == (80, 4242)
    assert (frame.seq, frame.flags, frame.payload) == (6999, ACK, 0)
    assert struct.unpack_from(">I2xH", packet, header + 8) == (100, 8192)
    addresses = packet[header - 32 : header] if header == 40 else packet[12:20]
    tcp = packet[header:]
    assert checksum(addresses + struct.pack(">II", len(tcp), 6) + tcp) == 0
    if header == 20:
        assert checksum(packet[:20]) == 0
    assert len(tcp) == (20 if tsval is None else 32)


@pytest.mark.parametrize(("sent", "at"), [(7000, [7000]), (7300, [7000, 7300])])
def test_a_reset_is_at_the_byte_that_the_peer_expects(sent: int, at: list[int]):
    """Two, if it is not known whether the peer has got what it has not acknowledged."""
    stream = STREAM._replace(snd_nxt=sent)
    found = []
    for packet in segments.resets(Connection("10.0.0.2", 80, "10.0.0.1", 4242), stream):
        frame = frames.parse(ETHERNET + b"\x08\x00" + packet)
        assert frame is not None
        assert (frame.flags, frame.payload) == (RST | ACK, 0)
        assert checksum(packet[12:20] + struct.pack(">II", len(packet) - 20, 6) + packet[20:]) == 0
        found.append(frame.seq)
    assert found == at
