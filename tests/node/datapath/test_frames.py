"""Frames of every kind: datagrams, those of lo, odd ones, and too many."""

from __future__ import annotations

import os
import socket
import struct
import threading
import time
from pathlib import Path

import pytest
from node.datapath_lab import (
    LOOPBACK,
    POD,
    Lab,
    both_families,
    connection,
    is_connected,
    is_readable,
    port_of,
    sysctl,
    tcp,
    udp,
    until,
    until_queued,
    wake_of,
)

from redirector.datapath import Datapath
from redirector.endpoints import Others
from redirector.hold import Hold
from redirector.pod import Pod
from redirector.settings import Settings

# -- datagrams ------------------------------------------------------------------------------------


@both_families
@pytest.mark.parametrize("gap", [0.0, 0.0001], ids=["blast", "paced"])
def test_ten_thousand_datagrams_arrive_in_order(lab: Lab, hold: Hold, family: int, gap: float):
    """Numbered datagrams sent before, during and after the replay arrive in order; paced ones all.

    A blast is faster than user space reads, and some may find no room in the TAP or in the kernel.
    """
    receiver = lab.datagrams(family)
    sender = lab.client.socket(family, socket.SOCK_DGRAM)
    sender.connect((POD[family], port_of(receiver)))
    hold.only([udp(receiver)], [])

    def blast() -> None:
        for number in range(10_000):
            sender.send(struct.pack("!I", number))
            if gap:
                time.sleep(gap)

    thread = threading.Thread(target=blast)
    thread.start()
    wake = wake_of(hold)
    assert wake is not None
    assert wake.kind == "udp"
    for _ in range(20):
        time.sleep(0.001)
        hold.receive()
    result = hold.replay()
    thread.join()
    numbers = []
    while len(numbers) < 10_000 and is_readable(receiver, 1):
        numbers.append(struct.unpack("!I", receiver.recv(8))[0])
    assert numbers == sorted(set(numbers))
    assert len(numbers) >= result.frames
    if gap:
        assert len(numbers) == 10_000


# -- loopback -------------------------------------------------------------------------------------


def test_lo_stays_open_for_the_next_hold(lab: Lab, pod: Pod):
    """The one before may still be closing when a container falls asleep again; what it tidies up is not the next one's."""
    for _ in range(20):
        former = pod.hold("container")
        closing = threading.Thread(target=former.close)
        closing.start()
        fresh = pod.hold("container")
        closing.join()
        assert sysctl(lab.pod, "net/ipv4/conf/lo/route_localnet") == "1"
        fresh.close()
        assert sysctl(lab.pod, "net/ipv4/conf/lo/route_localnet") == "0"


@both_families
@pytest.mark.parametrize("target", ["loopback", "own-address"])
def test_a_client_inside_the_pod_waits_and_is_served(
    lab: Lab, hold: Hold, family: int, target: str
):
    """Over lo, too, a held SYN is answered within the replay, not by its retransmission."""
    listener = lab.serve(family)
    hold.only([tcp(listener)], [])
    caller = lab.pod.socket(family, socket.SOCK_STREAM)
    caller.setblocking(False)
    addresses = LOOPBACK if target == "loopback" else POD
    caller.connect_ex((addresses[family], port_of(listener)))
    assert wake_of(hold) is not None
    assert not is_readable(listener)
    hold.replay()
    assert is_connected(caller, 0.5)
    accepted = lab.accept(listener)
    assert accepted.getpeername()[0] == addresses[family]
    accepted.sendall(b"x" * 200_000)
    caller.settimeout(20)
    assert len(caller.recv(300_000, socket.MSG_WAITALL | socket.MSG_PEEK)) > 0


@pytest.mark.parametrize("strict", ["0", "1"])
def test_los_sysctls_are_lent_not_taken(lab: Lab, pod: Pod, strict: str):
    """What replay over lo needs is set while something is held and put back after."""
    names = ["net/ipv4/conf/lo/route_localnet", "net/ipv4/conf/lo/accept_local"]
    lab.pod.shell(f"sysctl -qw net.ipv4.conf.lo.accept_local={strict}")
    before = [sysctl(lab.pod, name) for name in names]
    first, second = pod.hold("one"), pod.hold("two")
    assert [sysctl(lab.pod, name) for name in names] == ["1", "1"]
    first.close()
    assert [sysctl(lab.pod, name) for name in names] == ["1", "1"]
    second.close()
    assert [sysctl(lab.pod, name) for name in names] == before


def test_every_frame_of_a_large_segment_is_counted(lab: Lab, hold: Hold):
    """What the programs count and what waits is the same, or a replay would not know when it is over."""
    caller, accepted = lab.connect(lab.serve(socket.AF_INET))
    hold.only([], [connection(accepted)])
    caller.sendall(
        bytes(12000)
    )  # less than the first congestion window: one segment for the kernel
    until_queued(hold, 8)
    until(lambda: (hold.receive(), hold._redirected() == hold.queued)[1])


def test_large_segments_over_lo_are_replayed_whole(lab: Lab, hold: Hold):
    """The 64 KB segments of lo fit through the TAP."""
    listener = lab.serve(socket.AF_INET)
    caller = lab.dial(listener, lab.pod)
    accepted = lab.accept(listener)
    hold.only([], [connection(accepted)])
    data = os.urandom(300_000)
    thread = threading.Thread(target=lambda: (caller.settimeout(20), caller.sendall(data)))
    thread.start()
    until_queued(hold, 1)
    hold.replay()
    got = b""
    accepted.settimeout(20)
    while len(got) < len(data):
        got += accepted.recv(1 << 20)
    thread.join()
    assert got == data


def test_criu_talks_through_a_hold(lab: Lab, hold: Hold):
    """Packets with criu's mark pass: it rebuilds half-closed connections while we hold."""
    listener = lab.serve(socket.AF_INET)
    hold.only([tcp(listener)], [])
    caller = lab.pod.socket(socket.AF_INET, socket.SOCK_STREAM)
    caller.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, 0xC114)
    caller.settimeout(20)
    caller.connect((LOOPBACK[socket.AF_INET], port_of(listener)))


# -- odd packets ----------------------------------------------------------------------------------


def _with_options(lab: Lab, family: int, kind: int) -> socket.socket:
    """Return a client socket whose packets carry IP options or an extension header."""
    sock = lab.client.socket(family, kind)
    if family == socket.AF_INET:
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_OPTIONS, b"\x01" * 8)
    else:
        padding = bytes([0, 0, 1, 4, 0, 0, 0, 0])  # one PadN option, 8 bytes in all
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_DSTOPTS, padding)
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_HOPOPTS, padding)
    return sock


@both_families
def test_options_and_extension_headers_do_not_hide_a_port(lab: Lab, hold: Hold, family: int):
    """TCP and UDP behind IPv4 options or two IPv6 extension headers are held and replayed."""
    listener, receiver = lab.serve(family), lab.datagrams(family)
    hold.only([tcp(listener), udp(receiver)], [])
    sender = _with_options(lab, family, socket.SOCK_DGRAM)
    sender.sendto(b"datagram", (POD[family], port_of(receiver)))
    assert wake_of(hold) is not None
    caller = _with_options(lab, family, socket.SOCK_STREAM)
    caller.setblocking(False)
    caller.connect_ex((POD[family], port_of(listener)))
    until_queued(hold, 2)
    assert not is_readable(receiver)
    assert not is_readable(listener)
    hold.replay()
    assert receiver.recv(100) == b"datagram"
    assert is_connected(caller, 0.5)


@both_families
def test_a_fragmented_datagram_is_held_whole(lab: Lab, hold: Hold, family: int):
    """All fragments wait with the first, and come back to be put together."""
    receiver = lab.datagrams(family)
    sender = lab.client.socket(family, socket.SOCK_DGRAM)
    hold.only([udp(receiver)], [])
    sender.sendto(b"x" * 4000, (POD[family], port_of(receiver)))
    until_queued(hold, 3)
    assert not is_readable(receiver)
    hold.replay()
    assert receiver.recv(5000) == b"x" * 4000


@both_families
def test_a_siblings_fragments_pass_while_another_sleeps(lab: Lab, hold: Hold, family: int):
    """Fragments follow their first one: an awake container gets its long datagrams."""
    asleep, awake = lab.datagrams(family), lab.datagrams(family)
    sender = lab.client.socket(family, socket.SOCK_DGRAM)
    hold.only([udp(asleep)], [])
    sender.sendto(b"y" * 4000, (POD[family], port_of(awake)))
    assert awake.recv(5000) == b"y" * 4000
    assert hold.receive() is None


def test_ping_passes_while_everything_is_held(lab: Lab, hold: Hold):
    """ICMP and ARP are never held: the pod stays reachable for those who only look."""
    hold.everything(Others())
    lab.client.shell("ip neigh flush dev cable")
    echo = lab.client.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
    body = struct.pack("!BBHHH", 8, 0, 0xF7FF - 1, 0, 1)
    echo.sendto(body, (POD[socket.AF_INET], 0))
    echo.settimeout(20)
    reply = echo.recv(100)
    assert reply[20] == 0
    assert hold.queued == 0


# -- bounds ---------------------------------------------------------------------------------------


def test_a_flood_fills_the_queue_and_no_more(lab: Lab, root: Path):
    """Past the bound frames are dropped and counted; what was queued is delivered."""
    datapath = Datapath.open(root, Settings(queue_frames=100))
    hold = datapath.attach(lab.pod.pid, "sandbox").hold("container")
    try:
        receiver = lab.datagrams(socket.AF_INET)
        hold.only([udp(receiver)], [])
        sender = lab.client.socket(socket.AF_INET, socket.SOCK_DGRAM)
        for number in range(500):
            sender.sendto(struct.pack("!I", number), (POD[socket.AF_INET], port_of(receiver)))
        until(lambda: (hold.receive(), hold.queued + hold.dropped)[1] >= 500)
        assert (hold.queued, hold.dropped) == (100, 400)
        hold.replay()
        numbers = [struct.unpack("!I", receiver.recv(8))[0] for _ in range(100)]
        assert numbers == list(range(100))
        assert not is_readable(receiver)
    finally:
        datapath.forget("sandbox")


def test_a_full_tap_loses_frames_but_never_the_replay(lab: Lab, root: Path):
    """Frames that found no room in the device are booked as lost, and the drain ends."""
    datapath = Datapath.open(root, Settings(tap_frames=16))
    hold = datapath.attach(lab.pod.pid, "sandbox").hold("container")
    try:
        receiver = lab.datagrams(socket.AF_INET)
        hold.only([udp(receiver)], [])
        sender = lab.client.socket(socket.AF_INET, socket.SOCK_DGRAM)
        for _ in range(200):
            sender.sendto(b"x", (POD[socket.AF_INET], port_of(receiver)))
        result = hold.replay()
        assert 0 < result.frames < 200
        assert result.frames + result.dropped == 200
        sender.sendto(b"after", (POD[socket.AF_INET], port_of(receiver)))
        until(lambda: receiver.recv(10) == b"after")
    finally:
        datapath.forget("sandbox")
