"""What the programs take for activity, by port and by connection."""

from __future__ import annotations

import socket
import time

from fakes.pings import OTHERS, PINGS
from node.datapath_lab import (
    ANY,
    CLIENT,
    POD,
    Lab,
    both_families,
    connection_of,
    is_connected,
    port_of,
    tcp,
    udp,
    wake_of,
)

from redirector.endpoints import Port
from redirector.hold import Hold
from redirector.ignored import Ignored
from redirector.pod import Pod

# -- activity -------------------------------------------------------------------------------------


@both_families
def test_payload_is_activity_in_both_directions(lab: Lab, pod: Pod, family: int):
    """Bytes to and from a port are seen with their time; another port is not."""
    listener = lab.serve(family)
    port, start = tcp(listener), time.monotonic_ns()
    peer, end = lab.connect(listener)
    assert pod.activity([port])[port] == (0, 0), "a handshake is no activity"
    peer.sendall(b"in")
    end.recv(10)
    seen = pod.activity([port, Port("tcp", 1)])
    assert start < seen[port].last_in < time.monotonic_ns()
    assert seen[port].last_out == 0, "the acknowledgement is no activity"
    assert seen[Port("tcp", 1)] == (0, 0)
    end.sendall(b"out")
    peer.recv(10)
    assert pod.activity([port])[port].last_out > seen[port].last_in


def test_keepalives_and_goodbyes_are_no_activity(lab: Lab, pod: Pod):
    """A connection that is only kept open, and its end, leave a port idle."""
    listener = lab.serve(socket.AF_INET)
    peer, end = lab.connect(listener)
    peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 1)
    peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 1)
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    time.sleep(2.2)
    assert int(lab.client.shell("nstat -asz TcpExtTCPKeepAlive | tail -1").split()[1]) > 0
    peer.close()
    end.recv(10)
    end.close()
    time.sleep(0.05)
    assert pod.activity([tcp(listener)])[tcp(listener)] == (0, 0)


@both_families
def test_pings_are_no_activity(lab: Lab, pod: Pod, family: int):
    """What only asks whether somebody is there moves no clock, of port or connection; anything else moves both."""
    listener = lab.serve(family)
    port = tcp(listener)
    peer, end = lab.connect(listener)
    mine = connection_of(peer)
    assert pod.talks([mine]) == {}
    start = time.monotonic_ns()
    for ping in PINGS.values():
        before = time.monotonic_ns()
        peer.sendall(ping)
        assert end.recv(200) == ping
        assert before < pod.pinged() < (after := time.monotonic_ns()), ping
        end.sendall(ping)
        assert peer.recv(200) == ping
        assert pod.pinged() < after
        assert pod.activity([port])[port] == (0, 0), ping
        assert max(pod.talks([mine])[mine]) < start, ping
    for number, other in enumerate(filter(None, OTHERS.values())):
        start = time.monotonic_ns()
        peer.sendall(other)
        assert end.recv(200) == other
        assert pod.activity([port])[port].last_in > start, other
        assert pod.talks([mine])[mine].last_in == pod.activity([port])[port].last_in, number
    end.sendall(b"out")
    assert peer.recv(10) == b"out"
    assert pod.talks([mine])[mine].last_out > pod.talks([mine])[mine].last_in


@both_families
def test_nobody_keeps_clocks_of_connections_before_there_are_pings(
    lab: Lab, pod: Pod, family: int
):
    """The first ping of a connection finds the clocks of its port, and of the others none are kept until they talk."""
    listener = lab.serve(family)
    port = tcp(listener)
    (peer, end), (other, other_end) = lab.connect(listener), lab.connect(listener)
    for sender, receiver in ((other, other_end), (peer, end)):
        sender.sendall(b"question")
        assert receiver.recv(10) == b"question"
    asked = pod.activity([port])[port].last_in
    ends = [connection_of(peer), connection_of(other)]
    assert pod.talks(ends) == {}
    peer.sendall(PINGS["websocket, client"])
    end.recv(200)
    assert {one: times.last_in for one, times in pod.talks(ends).items()} == {ends[0]: asked}
    assert pod.talks(ends)[ends[0]].last_out < asked, "the question is open still"
    other_end.sendall(b"answer")
    assert other.recv(10) == b"answer"
    assert pod.talks(ends)[ends[1]].last_out > asked


def test_activity_on_lo_is_of_the_listeners_port(lab: Lab, pod: Pod):
    """Over lo one program sees both directions, and counts each for the port that speaks."""
    listener = lab.serve(socket.AF_INET)
    caller = lab.dial(listener, lab.pod)
    end = lab.accept(listener)
    caller.send(b"in")
    end.recv(10)
    port = tcp(listener)
    assert pod.activity([port])[port].last_in > 0
    assert pod.activity([port])[port].last_out == 0
    end.send(b"out")
    assert pod.activity([port])[port].last_out > 0


def test_a_held_datagram_is_activity_when_it_is_delivered(lab: Lab, pod: Pod, hold: Hold):
    """What waits has not reached the application yet; its replay counts."""
    receiver = lab.datagrams(socket.AF_INET)
    port = udp(receiver)
    hold.only([port], [])
    sender = lab.client.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sender.sendto(b"x", (POD[socket.AF_INET], port.number))
    assert wake_of(hold) is not None
    assert pod.activity([port])[port] == (0, 0)
    before = time.monotonic_ns()
    hold.replay()
    assert pod.activity([port])[port].last_in > before


@both_families
def test_ports_that_are_not_asked_for_share_a_clock(lab: Lab, pod: Pod, family: int):
    """What the pod sends from them is seen at port 0 when they are long closed; what others send to them is not."""
    listener, asker = lab.serve(family), lab.pod.socket(family, socket.SOCK_DGRAM)
    stranger = lab.client.socket(family, socket.SOCK_DGRAM)
    kept, rest = tcp(listener), [Port("tcp", 0), Port("udp", 0)]
    assert set(pod.activity([kept, *rest], kept=[kept, *rest]).values()) == {(0, 0)}
    peer, end = lab.connect(listener)
    peer.sendall(b"in")
    end.sendall(end.recv(10))
    stranger.sendto(b"x", (POD[family], 9))
    assert pod.activity([kept])[kept].last_out > 0
    assert set(pod.activity(rest).values()) == {(0, 0)}
    asker.sendto(b"x", (CLIENT[family], 9))
    asker.close()
    seen = pod.activity(rest)
    assert seen[Port("udp", 0)].last_out > 0
    assert seen[Port("tcp", 0)] == (0, 0)


@both_families
def test_who_sends_before_anything_came_calls(lab: Lab, pod: Pod, family: int):
    """A datagram client's port that the kernel chose; not a server's that answers, nor one from outside the range."""
    client, server = lab.datagrams(family), lab.datagrams(family)
    fixed = lab.pod.socket(family, socket.SOCK_DGRAM)
    fixed.bind((ANY[family], 999))
    other = lab.client.socket(family, socket.SOCK_DGRAM)
    other.bind((CLIENT[family], 0))
    ports = [udp(client), udp(server), udp(fixed)]
    assert pod.callers(ports) == set()
    other.sendto(b"question", (POD[family], port_of(server)))
    question, asker = server.recvfrom(100)
    for sock in (client, server, fixed):
        sock.sendto(question, asker)
    other.sendto(b"answer", (POD[family], port_of(client)))
    client.recv(100)
    assert pod.callers(ports) == {udp(client)}
    pod.activity(ports, kept=ports)
    assert pod.callers(ports) == {udp(client)}


@both_families
def test_ignored_peers_are_no_activity(lab: Lab, pod: Pod, family: int):
    """Neither their questions nor our answers; without the rule both count again."""
    listener = lab.serve(family)
    port, (peer, end) = tcp(listener), lab.connect(listener)

    def talk() -> tuple[int, int]:
        peer.sendall(b"in")
        assert end.recv(10) == b"in"
        end.sendall(b"out")
        assert peer.recv(10) == b"out"
        last_in, last_out = pod.activity([port])[port]
        return last_in, last_out

    right, wrong = ["10.231.0.0/28"], ["10.231.0.128/25", "::/0"]
    if family == socket.AF_INET6:
        right, wrong = ["fd31::/120"], ["fd31::8000/120", "0.0.0.0/0"]
    pod.ignore(Ignored.of(wrong))
    assert min(talk()) > 0
    before = pod.activity([port])[port]
    pod.ignore(Ignored.of(right))
    assert talk() == before
    pod.ignore(Ignored())
    assert min(talk()) > max(before)


def test_a_connection_to_a_quiet_port_waits_and_is_answered_with_the_others(lab: Lab, hold: Hold):
    """It wakes nobody and is not refused; when somebody else wakes the container it is served."""
    listener, other = lab.serve(socket.AF_INET), lab.serve(socket.AF_INET)
    hold.only([tcp(listener), tcp(other)], [], quiet=[tcp(listener)])
    scraper = lab.dial(listener)
    assert wake_of(hold, 0.3) is None
    assert hold.queued == 1
    client = lab.dial(other)
    wake = wake_of(hold)
    assert wake is not None
    assert wake.port == tcp(other)
    hold.replay()
    assert is_connected(client)
    assert is_connected(scraper)
