"""Connections of a pod that sleeps: those that are opened, those that are open, and sockets that live on."""

from __future__ import annotations

import contextlib
import socket
import time
from pathlib import Path

import pytest
from node.datapath_lab import (
    CLIENT,
    POD,
    Lab,
    both_families,
    connection,
    crash,
    is_connected,
    is_readable,
    port_of,
    tcp,
    udp,
    until,
    until_queued,
    vanish,
    wake_of,
)

from redirector.datapath import Datapath
from redirector.hold import Hold

# -- new connections ------------------------------------------------------------------------------


@both_families
def test_a_new_connection_waits_and_keeps_the_clients_address(lab: Lab, hold: Hold, family: int):
    """A SYN to a held port reaches nobody until the replay, and the server sees the client itself."""
    listener = lab.serve(family)
    hold.only([tcp(listener)], [])
    caller = lab.dial(listener)
    wake = wake_of(hold)
    assert wake is not None
    assert (wake.kind, wake.port) == ("tcp-connect", tcp(listener))
    assert not is_readable(listener)
    result = hold.replay()
    accepted = lab.accept(listener)
    assert is_connected(caller)
    assert accepted.getpeername()[:2] == (CLIENT[family], port_of(caller))
    assert str(port_of(caller)) in wake.source
    assert (result.frames, result.dropped) == (1, 0)


@both_families
def test_two_hundred_connections_wait_at_once(lab: Lab, hold: Hold, family: int):
    """Every one of many held SYNs is answered by the replay, none by a reset."""
    listener = lab.serve(family)
    listener.listen(256)
    hold.only([tcp(listener)], [])
    callers = [lab.dial(listener) for _ in range(200)]
    until_queued(hold, 200)
    hold.replay()
    assert all(is_connected(caller, 0.9) for caller in callers)


def test_a_retransmitted_syn_is_queued_once(lab: Lab, hold: Hold):
    """The kernel's second SYN after a second finds the first still waiting, and is dropped."""
    listener = lab.serve(socket.AF_INET)
    hold.only([tcp(listener)], [])
    caller = lab.dial(listener)
    until(lambda: (hold.receive(), hold.dropped)[1] > 0)
    assert hold.queued == 1
    hold.replay()
    assert is_connected(caller, 0.5)


def test_phase_one_holds_only_new_connections(lab: Lab, hold: Hold):
    """While connections settle, an open one goes on and a new one waits."""
    listener = lab.serve(socket.AF_INET)
    caller, accepted = lab.connect(listener)
    hold.syns([tcp(listener)])
    late = lab.dial(listener)
    caller.sendall(b"still awake")
    assert accepted.recv(100) == b"still awake"
    assert not is_readable(listener)
    hold.replay()
    assert is_connected(late)


# -- open connections -----------------------------------------------------------------------------


@both_families
@pytest.mark.parametrize("outbound", [False, True], ids=["inbound", "outbound"])
def test_data_on_an_open_connection_wakes_and_arrives_once(
    lab: Lab, hold: Hold, family: int, outbound: bool
):
    """Payload on a kept connection waits, is a reason to wake, and is delivered by the replay."""
    if outbound:
        server = lab.client.socket(family, socket.SOCK_STREAM)
        server.bind((CLIENT[family], 0))
        server.listen()
        pod_end = lab.pod.socket(family, socket.SOCK_STREAM)
        pod_end.connect(server.getsockname()[:2])
        peer = lab.accept(server)
    else:
        peer, pod_end = lab.connect(lab.serve(family))
    hold.only([], [connection(pod_end)])
    peer.sendall(b"hello")
    wake = wake_of(hold)
    assert wake is not None
    assert wake.kind == "tcp-data"
    assert not is_readable(pod_end)
    hold.replay()
    pod_end.settimeout(0.15)  # less than the shortest retransmission
    assert pod_end.recv(100) == b"hello"
    pod_end.close()


def test_a_dual_stack_listeners_ipv4_connection_is_held(lab: Lab, hold: Hold):
    """A connection whose address reads ::ffff:10.231.0.1 is found in IPv4 packets."""
    listener = lab.pod.socket(socket.AF_INET6, socket.SOCK_STREAM)
    listener.bind(("::", 0))
    listener.listen()
    caller = lab.client.socket(socket.AF_INET, socket.SOCK_STREAM)
    caller.connect((POD[socket.AF_INET], port_of(listener)))
    pod_end = lab.accept(listener)
    assert pod_end.getpeername()[0].startswith("::ffff:")
    hold.only([], [connection(pod_end)])
    caller.sendall(b"mapped")
    assert wake_of(hold) is not None
    assert not is_readable(pod_end)
    hold.replay()
    assert pod_end.recv(10) == b"mapped"


def test_the_end_of_a_connection_waits_without_waking(lab: Lab, hold: Hold):
    """FIN is no reason to wake; the application reads the end of file after the replay."""
    peer, pod_end = lab.connect(lab.serve(socket.AF_INET))
    hold.only([], [connection(pod_end)])
    peer.shutdown(socket.SHUT_WR)
    until_queued(hold, 1)
    assert hold.receive() is None
    hold.replay()
    assert pod_end.recv(10) == b""


@pytest.mark.parametrize("kept", [True, False], ids=["in-the-image", "unknown"])
def test_a_segment_without_a_socket_is_never_reset(lab: Lab, hold: Hold, kept: bool):
    """With the socket gone, as after the dump, the peer's data is held instead of refused."""
    listener = lab.serve(socket.AF_INET)
    peer, pod_end = lab.connect(listener)
    hold.only([tcp(listener)], [connection(pod_end)] if kept else [])
    vanish(pod_end)
    peer.sendall(b"anybody?")
    until_queued(hold, 1)
    time.sleep(0.5)  # retransmissions go on
    peer.sendall(b"still there?")
    assert not is_readable(peer)


def test_a_connection_in_time_wait_is_still_answered(lab: Lab, hold: Hold):
    """A socket that the kernel keeps without its process gets its segments while we sleep."""
    listener = lab.serve(socket.AF_INET)
    peer, pod_end = lab.connect(listener)
    pod_end.close()
    peer.recv(10)
    hold.only([tcp(listener)], [])
    peer.close()  # its FIN goes to FIN_WAIT2 in the pod
    state = f"ss -Htan state time-wait sport = :{port_of(listener)}"
    until(lambda: lab.pod.shell(state))


# -- sockets that live on ---------------------------------------------------------------------------


@both_families
def test_a_live_socket_answers_what_needs_no_application(lab: Lab, hold: Hold, family: int):
    """Keepalives and goodbyes of a frozen application's connections pass; payload, SYNs and datagrams wait and wake."""
    listener, plain = lab.serve(family), lab.datagrams(family)
    peer, pod_end = lab.connect(listener)
    hold.only([tcp(listener), udp(plain)], [connection(pod_end)], live=True)
    peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 1)
    peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 1)
    peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 1)
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    time.sleep(3.2)
    assert not is_readable(peer), "the peer has given up"
    assert (hold.queued, hold.receive()) == (0, None)

    peer.sendall(b"hello")
    wake = wake_of(hold)
    assert wake is not None
    assert wake.kind == "tcp-data"
    assert not is_readable(pod_end)
    caller = lab.dial(listener)
    wake = wake_of(hold)
    assert wake is not None
    assert wake.kind == "tcp-connect"
    lab.client.socket(family, socket.SOCK_DGRAM).sendto(b"x", (POD[family], port_of(plain)))
    wake = wake_of(hold)
    assert wake is not None
    assert wake.kind == "udp"
    hold.replay()
    pod_end.settimeout(0.15)
    assert pod_end.recv(100) == b"hello"
    assert plain.recv(10) == b"x"
    assert is_connected(caller, 0.5)


def test_a_live_socket_is_told_of_the_end(lab: Lab, hold: Hold):
    """A FIN passes and is acknowledged, and wakes nobody."""
    peer, pod_end = lab.connect(lab.serve(socket.AF_INET))
    hold.only([], [connection(pod_end)], live=True)
    peer.shutdown(socket.SHUT_WR)
    state = f"ss -Htan state fin-wait-2 dport = :{pod_end.getsockname()[1]}"
    until(lambda: lab.client.shell(state))
    assert (hold.queued, hold.receive()) == (0, None)
    assert pod_end.recv(10) == b""


def test_what_a_live_socket_sends_is_acknowledged(lab: Lab, hold: Hold):
    """The kernel goes on sending for a frozen application; the answers reach it."""
    peer, pod_end = lab.connect(lab.serve(socket.AF_INET))
    hold.only([], [connection(pod_end)], live=True)
    pod_end.setblocking(False)
    sent = 0
    while sent < 1 << 20:
        with contextlib.suppress(BlockingIOError):
            sent += pod_end.send(b"x" * 65536)
        with contextlib.suppress(BlockingIOError):
            peer.recv(1 << 20, socket.MSG_DONTWAIT)
    assert (hold.queued, hold.receive()) == (0, None)


def test_a_live_hold_is_let_go_by_the_next_daemon(lab: Lab, root: Path):
    """While nobody reads the TAP payload is dropped; it comes again when the successor lets it pass."""
    first = Datapath.open(root)
    listener = lab.serve(socket.AF_INET)
    peer, end = lab.connect(listener)
    sleeping = first.attach(lab.pod.pid, "sandbox").hold("container")
    sleeping.only([tcp(listener)], [connection(end)], live=True)
    crash(sleeping)
    peer.sendall(b"anybody?")
    time.sleep(0.3)
    assert not is_readable(end)
    second = Datapath.open(root)
    assert [held.mode for held in second.holds()] == ["live"]
    try:
        second.attach(lab.pod.pid, "sandbox").abandon("container")
        assert second.holds() == []
        end.settimeout(20)
        assert end.recv(100) == b"anybody?"
    finally:
        second.forget("sandbox")
