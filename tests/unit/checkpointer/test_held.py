"""What is held is read from the image: sockets become ports and connections, garbage becomes an error."""

from __future__ import annotations

import socket
import struct
from pathlib import Path
from types import SimpleNamespace

import pytest

from checkpointer import held
from checkpointer.errors import ImageError
from redirector.endpoints import Connection, Keepalive, Port, Stream

STREAM_MAGIC = struct.pack("<II", 0x54564319, 0x51465506)
ESTABLISHED, SYN_SENT, CLOSE, CLOSE_WAIT, LISTEN = 1, 2, 7, 8, 10


def words(address: str, family: int = socket.AF_INET) -> list[int]:
    """An address as criu stores it: words of the network's bytes, in the machine's order."""
    raw = socket.inet_pton(family, address)
    return [number for (number,) in struct.iter_unpack("=I", raw)]


def sock(proto: int, state: int, local: int, remote: int = 0, **more: object) -> SimpleNamespace:
    """An inet socket of an image."""
    plain = {
        "family": socket.AF_INET,
        "opts": SimpleNamespace(reuseaddr=True),
        "src_addr": words("10.0.0.1"),
        "dst_addr": words("10.0.0.9"),
    }
    ends = {"src_port": local, "dst_port": remote}
    return SimpleNamespace(**{"proto": proto, "state": state, **plain, **ends, **more})


def test_listening_and_bound_sockets_are_ports() -> None:
    """TCP counts when it listens, UDP when it is bound, connected or not."""
    found = held.of(
        [
            sock(socket.IPPROTO_TCP, LISTEN, 80),
            sock(socket.IPPROTO_TCP, CLOSE, 81),
            sock(socket.IPPROTO_UDP, CLOSE, 53),
            sock(socket.IPPROTO_UDP, ESTABLISHED, 54, 4000),
            sock(socket.IPPROTO_UDP, CLOSE, 0),
            sock(socket.IPPROTO_ICMP, CLOSE, 5),
        ]
    )
    assert found.ports == {Port("tcp", 80), Port("udp", 53), Port("udp", 54)}
    assert not found.connections


def test_half_closed_connections_are_connections() -> None:
    """Whatever is not listening and has two ends is held, in any state."""
    found = held.of(
        [
            sock(socket.IPPROTO_TCP, ESTABLISHED, 80, 4000),
            sock(socket.IPPROTO_TCP, CLOSE_WAIT, 80, 4001),
        ]
    )
    assert found.connections == {
        Connection("10.0.0.1", 80, "10.0.0.9", 4000),
        Connection("10.0.0.1", 80, "10.0.0.9", 4001),
    }


def test_ports_without_reuseaddr_are_exclusive() -> None:
    """Of listeners and connections; datagrams have no TIME_WAIT."""
    alone = {"opts": SimpleNamespace(reuseaddr=False)}
    found = held.of(
        [
            sock(socket.IPPROTO_TCP, LISTEN, 80),
            sock(socket.IPPROTO_TCP, LISTEN, 81, **alone),
            sock(socket.IPPROTO_TCP, ESTABLISHED, 4000, 80, **alone),
            sock(socket.IPPROTO_UDP, CLOSE, 53, **alone),
        ]
    )
    assert found.exclusive == {81, 4000}


def test_mapped_addresses_are_ipv4() -> None:
    """An IPv4 connection on a dual-stack socket is told as the packets are: IPv4."""
    v6 = {"family": socket.AF_INET6}
    mapped = sock(socket.IPPROTO_TCP, ESTABLISHED, 80, 4000, **v6)
    mapped.src_addr = words("::ffff:10.0.0.1", socket.AF_INET6)
    mapped.dst_addr = words("::ffff:10.0.0.9", socket.AF_INET6)
    real = sock(socket.IPPROTO_TCP, ESTABLISHED, 80, 4000, **v6)
    real.src_addr = words("fd00::1", socket.AF_INET6)
    real.dst_addr = words("fd00::9", socket.AF_INET6)
    assert held.of([mapped, real]).connections == {
        Connection("10.0.0.1", 80, "10.0.0.9", 4000),
        Connection("fd00::1", 80, "fd00::9", 4000),
    }


@pytest.mark.parametrize("data", [b"", b"no image", struct.pack("<II", 0x54564319, 0x12345678)])
def test_another_file_is_refused(data: bytes) -> None:
    """A file that does not begin with criu's numbers is an error, not an empty set."""
    with pytest.raises(ImageError):
        list(held.parse(data))


def test_a_file_cut_short_is_refused() -> None:
    """An entry that is longer than the file is an error."""
    magic = struct.pack("<II", 0x54564319, 0x56303138)
    with pytest.raises(ImageError, match="cut short"):
        list(held.parse(magic + struct.pack("<I", 100) + b"x" * 50))


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    """An image without files.img is an error."""
    with pytest.raises(ImageError, match="cannot be read"):
        held.read(tmp_path)


def entry(**values: int) -> SimpleNamespace:
    """A connection's tcp_stream_entry: 10 bytes unread, 5 that the peer has not acknowledged, 3 of them not sent."""
    plain = {
        "inq_len": 10,
        "inq_seq": 100,
        "outq_len": 5,
        "outq_seq": 2,
        "unsq_len": 3,
        "opt_mask": 7,
        "timestamp": 99,
        "rcv_wscale": 7,
        "rcv_wup": 90,
        "rcv_wnd": 1000,
        **values,
    }
    return SimpleNamespace(**plain, HasField=lambda name: name in plain)


def option(*, keepalive: bool) -> dict[str, object]:
    """What the application has set."""
    return {
        "opts": SimpleNamespace(reuseaddr=True, so_keepalive=keepalive),
        "tcp_opts": SimpleNamespace(keepidle=15, keepintvl=10, keepcnt=9),
    }


def test_how_a_connection_stands() -> None:
    """Sequence numbers wrap around; the window is what is left of the one that was announced."""
    isk = sock(socket.IPPROTO_TCP, ESTABLISHED, 80, 4000, **option(keepalive=True))
    top = 1 << 32
    assert held.stream(isk, entry()) == Stream(
        top - 3, top - 1, 100, 990, 7, 99, Keepalive(15, 10, 9)
    )


def test_what_an_application_has_not_asked_for_is_not_there() -> None:
    """No timestamps, no keepalives."""
    isk = sock(socket.IPPROTO_TCP, ESTABLISHED, 80, 4000, **option(keepalive=False))
    found = held.stream(isk, entry(opt_mask=4))
    assert (found.tsval, found.keepalive) == (None, None)


def test_a_fin_of_ours_is_not_acknowledged_before_it_is() -> None:
    """In FIN_WAIT1 it counts as one byte more, in FIN_WAIT2 the peer has it."""
    found = {
        state: held.stream(
            sock(socket.IPPROTO_TCP, state, 80, 4000, **option(keepalive=False)),
            entry(outq_seq=1000, outq_len=0, unsq_len=0),
        ).snd_una
        for state in (4, 5)
    }
    assert found == {4: 999, 5: 1000}


def test_a_half_open_connection_has_no_numbers() -> None:
    """Its peer has not spoken yet; nothing is read of it."""
    isk = sock(socket.IPPROTO_TCP, SYN_SENT, 4000, 80, **option(keepalive=True))
    found = held.of([isk], lambda _: entry())
    assert found.connections
    assert not found.streams


@pytest.mark.parametrize("data", [b"", STREAM_MAGIC + b"\x09\0\0\0x", b"x" * 100])
def test_a_damaged_stream_is_refused(data: bytes) -> None:
    """What is no tcp-stream.img, or is cut short, is an error."""
    with pytest.raises(ImageError):
        held.parse_stream(data)
