"""Keepalives of connections whose socket is in an image, both ways: no containers, real packets."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import pytest
from node.datapath_lab import (
    Lab,
    both_families,
    checkpoint,
    checksum_offload,
    connection_of,
    counter,
    crash,
    is_readable,
    keep_alive,
    port_of,
    restore,
    until,
    until_queued,
    vanish,
    wake_of,
)

from dev import patience
from redirector import segments
from redirector.datapath import Datapath
from redirector.endpoints import Connection, Port, Stream
from redirector.hold import Hold
from redirector.pod import Pod
from redirector.raw import Raw

with_and_without_timestamps = pytest.mark.parametrize(
    "timestamps", [1, 0], ids=["timestamps", "bare"]
)


@pytest.fixture
def pod(lab: Lab, datapath: Datapath) -> Iterator[Pod]:
    yield datapath.attach(lab.pod.pid, "sandbox")
    datapath.forget("sandbox")
    lab.hang_up()
    lab.client.shell("sysctl -w net.ipv4.tcp_timestamps=1")


class Asleep(NamedTuple):
    """A connection whose pod side is only an image."""

    peer: socket.socket
    connection: Connection
    stream: Stream


def fall_asleep(hold: Hold, peer: socket.socket, end: socket.socket) -> Asleep:
    """Hold a connection and take its socket away."""
    connection = connection_of(peer)
    port = Port("tcp", connection.local_port)
    hold.only([port], [connection])
    stream = checkpoint(end)
    hold.only([port], [connection], streams={connection: stream})
    return Asleep(peer, connection, stream)


def wake_up(lab: Lab, hold: Hold, asleep: Asleep) -> None:
    """Make the socket again, and see that both directions go on."""
    end = restore(lab.pod, asleep.connection, asleep.stream)
    hold.replay()
    refused = counter(lab.client, "TcpExtPAWSEstab")
    end.sendall(b"from the pod")
    asleep.peer.settimeout(0.19)  # less than the first retransmission
    assert asleep.peer.recv(100) == b"from the pod"
    end.settimeout(0.19)
    asleep.peer.sendall(b"from the peer")
    assert end.recv(100) == b"from the peer"
    assert counter(lab.client, "TcpExtPAWSEstab") == refused, (
        "our answers were later than the restored clock"
    )


@pytest.fixture(params=["offload", "complete"])
def checksums(lab: Lab, request: pytest.FixtureRequest) -> Iterator[None]:
    """Frames from this machine, whose checksum nobody has computed, and such as come from a wire."""
    checksum_offload(lab.client, "cable", on=request.param == "offload")
    yield
    checksum_offload(lab.client, "cable", on=True)


@both_families
@with_and_without_timestamps
@pytest.mark.usefixtures("checksums")
def test_a_peers_keepalives_are_answered_without_a_wake(
    lab: Lab, hold: Hold, family: int, timestamps: int
):
    """A peer that gives up after three seconds of silence stays connected, and nobody is woken."""
    lab.client.shell(f"sysctl -w net.ipv4.tcp_timestamps={timestamps}")
    peer, end = lab.connect(lab.serve(family))
    peer.sendall(b"x" * 100_000)
    got = 0
    while got < 100_000:
        got += len(end.recv(1 << 16))
    end.sendall(b"thanks")
    assert peer.recv(100) == b"thanks"
    asleep = fall_asleep(hold, peer, end)
    assert (asleep.stream.tsval is not None) == bool(timestamps)
    keep_alive(peer, 1, 1, 2)
    assert not is_readable(peer, 3.8), "the peer has given up"
    assert wake_of(hold, 0) is None
    assert hold.answered >= 3
    assert hold.queued == 0
    wake_up(lab, hold, asleep)


def send(lab: Lab, asleep: Asleep, offset: int, payload: bytes = b"") -> None:
    """Send a segment as the peer would, so many bytes from the next one that we expect."""
    here, there = asleep.connection[:2], asleep.connection[2:]
    stream = asleep.stream
    peers = stream._replace(rcv_nxt=stream.snd_nxt, tsval=None)
    packet = segments.tcp(Connection(*there, *here), peers, stream.rcv_nxt + offset, payload)
    raw = lab.client.run(Raw)
    assert raw.send(packet, segments.addresses(asleep.connection)[0])
    raw.close()


@both_families
def test_keepalives_with_a_byte_are_answered(lab: Lab, hold: Hold, family: int):
    """The old style carries one byte that was received long ago; it is not mistaken for data."""
    asleep = fall_asleep(hold, *lab.connect(lab.serve(family)))
    before = counter(lab.client, "TcpInSegs"), counter(lab.client, "TcpInCsumErrors")
    send(lab, asleep, -1, b"\0")
    until(lambda: counter(lab.client, "TcpInSegs") == before[0] + 1)
    assert counter(lab.client, "TcpInCsumErrors") == before[1]
    assert hold.answered == 1
    assert wake_of(hold, 0) is None
    wake_up(lab, hold, asleep)


def test_a_copy_of_what_was_acknowledged_is_answered(lab: Lab, hold: Hold):
    """A peer whose acknowledgement was lost sends again; it is told, and nobody is woken."""
    peer, end = lab.connect(lab.serve(socket.AF_INET))
    peer.sendall(b"x" * 1000)
    assert len(end.recv(1000)) == 1000
    asleep = fall_asleep(hold, peer, end)
    send(lab, asleep, -1000, b"x" * 1000)
    until(lambda: hold.answered == 1)
    assert wake_of(hold, 0.1) is None
    wake_up(lab, hold, asleep)


@pytest.mark.parametrize(("offset", "size"), [(-1, 2), (0, 1), (0, 100)])
def test_a_byte_that_is_new_wakes(lab: Lab, hold: Hold, offset: int, size: int):
    """Also when the one before it is old."""
    asleep = fall_asleep(hold, *lab.connect(lab.serve(socket.AF_INET)))
    send(lab, asleep, offset, b"y" * size)
    wake = wake_of(hold)
    assert wake is not None
    assert wake.kind == "tcp-data"
    assert hold.answered == 0


def test_two_that_answer_each_other_come_to_rest(lab: Lab, hold: Hold):
    """A stream of keepalives gets no more than ten answers a second."""
    asleep = fall_asleep(hold, *lab.connect(lab.serve(socket.AF_INET)))
    for _ in range(50):
        send(lab, asleep, -1)
    assert hold.answered == 1


def test_a_socket_that_is_there_answers_itself(lab: Lab, hold: Hold):
    """While criu dumps or restores, a keepalive waits: the socket may know better than the image."""
    peer, end = lab.connect(lab.serve(socket.AF_INET))
    connection = connection_of(peer)
    asleep = fall_asleep(hold, peer, end)
    there = restore(lab.pod, connection, asleep.stream)
    send(lab, asleep, -1)
    until_queued(hold, 1)
    assert hold.answered == 0
    there.close()


def test_a_peer_in_front_of_a_closed_window_wakes(lab: Lab, hold: Hold):
    """Its probe looks like a keepalive, but it has data: the application has to make room."""
    listener = lab.serve(socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
    peer, end = lab.connect(listener)
    peer.setblocking(False)

    def waits() -> bool:
        with contextlib.suppress(BlockingIOError):
            peer.send(b"x" * 500)
        return "persist" in lab.client.shell(f"ss -Hton dport = :{port_of(end)}")

    until(waits)
    hold.only([], [connection_of(peer)])
    # The kernel may close a window for want of memory before the peer has filled it.
    stream = checkpoint(end)._replace(window=0)
    hold.only([], [connection_of(peer)], streams={connection_of(peer): stream})
    wake = wake_of(hold)
    assert wake is not None
    assert (wake.kind, hold.answered) == ("tcp-data", 0)


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_keepalives_over_loopback_are_answered(lab: Lab, hold: Hold, address: str):
    """A sibling container's connection is kept as well."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    listener = lab.serve(family, address=address)
    peer = lab.pod.socket(family, socket.SOCK_STREAM)
    peer.connect((address, port_of(listener)))
    asleep = fall_asleep(hold, peer, lab.accept(listener))
    keep_alive(peer, 1, 1, 2)
    assert not is_readable(peer, 3.8), "the peer has given up"
    assert wake_of(hold, 0) is None
    assert hold.answered >= 3
    wake_up(lab, hold, asleep)


def test_answers_do_not_need_the_daemon(lab: Lab, hold: Hold):
    """They are the programs' work: they go on when the TAP is gone."""
    peer, end = lab.connect(lab.serve(socket.AF_INET))
    fall_asleep(hold, peer, end)
    crash(hold)
    keep_alive(peer, 1, 1, 2)
    assert not is_readable(peer, 3.8), "the peer has given up"
    assert hold.answered >= 3


# -- ours -----------------------------------------------------------------------------------------


def keep_alive_until(hold: Hold, done: Callable[[], bool]) -> None:
    """Do what the daemon does with a sleeping container's hold."""
    deadline = time.monotonic() + patience.seconds(30)
    while not done():
        assert time.monotonic() < deadline
        again = hold.keep_alive()
        assert wake_of(hold, 0.1 if again is None else min(0.1, again)) is None


@both_families
@with_and_without_timestamps
def test_the_applications_keepalives_go_on(lab: Lab, hold: Hold, family: int, timestamps: int):
    """A peer hears from a sleeping application as often as from one that is awake, and answers."""
    lab.client.shell(f"sysctl -w net.ipv4.tcp_timestamps={timestamps}")
    peer, end = lab.connect(lab.serve(family))
    keep_alive(end, 1, 1, 3)
    asleep = fall_asleep(hold, peer, end)
    before = counter(lab.client, "TcpInSegs"), counter(lab.client, "TcpInCsumErrors")
    begun = time.monotonic()
    keep_alive_until(hold, lambda: counter(lab.client, "TcpInSegs") - before[0] >= 4)
    assert time.monotonic() - begun > 2.5, "more often than the application asked for"
    assert counter(lab.client, "TcpInCsumErrors") == before[1]
    assert (hold.queued, hold.dropped) == (0, 0), "an answer says nothing new"
    wake_up(lab, hold, asleep)


def test_the_applications_keepalives_go_on_over_loopback(lab: Lab, hold: Hold):
    """A peer in the same pod hears them too."""
    listener = lab.serve(socket.AF_INET, address="127.0.0.1")
    peer = lab.pod.socket(socket.AF_INET, socket.SOCK_STREAM)
    peer.connect(("127.0.0.1", port_of(listener)))
    end = lab.accept(listener)
    keep_alive(end, 60, 1, 3)
    asleep = fall_asleep(hold, peer, end)
    hold.keep_alive()
    time.sleep(1.1)
    again = hold.keep_alive()
    assert again is not None
    assert again > 50, "the peer has not answered"
    wake_up(lab, hold, asleep)


def test_a_reset_that_answers_a_keepalive_is_the_restored_sockets(lab: Lab, hold: Hold):
    """The peer has forgotten the connection: the application hears of it when it is awake."""
    peer, end = lab.connect(lab.serve(socket.AF_INET))
    keep_alive(end, 1, 1, 3)
    asleep = fall_asleep(hold, peer, end)
    vanish(peer)
    keep_alive_until(hold, lambda: hold.queued == 1)
    woken = restore(lab.pod, asleep.connection, asleep.stream)
    hold.replay()
    with pytest.raises(ConnectionResetError):
        woken.recv(1)
