"""Beside others: siblings of the pod, filters of other people, the daemon before and the pod after."""

from __future__ import annotations

import concurrent.futures
import itertools
import shutil
import socket
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from node.datapath_lab import (
    POD,
    Lab,
    connection,
    connection_of,
    crash,
    is_connected,
    is_readable,
    port_of,
    sysctl,
    tcp,
    udp,
    until_queued,
    vanish,
    wake_of,
)

from bpf.pins import Pins
from redirector.datapath import Datapath
from redirector.endpoints import Others, Port
from redirector.errors import BusyError
from redirector.hold import Hold
from redirector.pod import Pod

# -- siblings -------------------------------------------------------------------------------------


def test_siblings_work_while_one_container_is_frozen(lab: Lab, hold: Hold):
    """In phase 2 a sibling's port and connection pass, and all else waits."""
    mine, theirs = lab.serve(socket.AF_INET), lab.serve(socket.AF_INET)
    my_peer, my_end = lab.connect(mine)
    their_peer, their_end = lab.connect(theirs)
    hold.syns([tcp(mine)])
    hold.everything(Others(frozenset([tcp(theirs)]), frozenset([connection(their_end)])))
    their_peer.sendall(b"theirs")
    my_peer.sendall(b"mine")
    assert their_end.recv(10) == b"theirs"
    new_to_them = lab.dial(theirs)
    assert is_connected(new_to_them)
    assert not is_readable(my_end)
    hold.replay()
    assert my_end.recv(10) == b"mine"


def test_what_was_caught_for_others_goes_back_when_the_held_set_is_known(lab: Lab, hold: Hold):
    """Frames of phase 2 beyond the image's sockets are released at once, the rest wakes."""
    mine, theirs = lab.serve(socket.AF_INET), lab.serve(socket.AF_INET)
    my_peer, my_end = lab.connect(mine)
    their_peer, their_end = lab.connect(theirs)
    hold.everything(Others())
    my_peer.sendall(b"mine")
    their_peer.sendall(b"theirs")
    until_queued(hold, 2)
    assert hold.receive() is None
    hold.only([tcp(mine)], [connection(my_end)])
    their_end.settimeout(0.15)
    assert their_end.recv(10) == b"theirs"
    wake = hold.receive()
    assert wake is not None
    assert (wake.kind, wake.port) == ("tcp-data", tcp(mine))
    assert not is_readable(my_end)
    hold.replay()
    assert my_end.recv(10) == b"mine"


def test_two_containers_of_a_pod_sleep_and_wake_on_their_own(lab: Lab, pod: Pod):
    """Each has its hold; only phase 2 is one at a time, and the other is told."""
    listeners = [lab.serve(socket.AF_INET) for _ in range(2)]
    holds = [pod.hold(name) for name in ("one", "two")]
    holds[0].everything(Others())
    with pytest.raises(BusyError):
        holds[1].everything(Others())
    for hold, listener in zip(holds, listeners, strict=True):
        hold.only([tcp(listener)], [])
    caller = lab.dial(listeners[1])
    assert wake_of(holds[1]) is not None
    assert wake_of(holds[0], 0) is None
    holds[1].replay()
    assert is_connected(caller)
    holds[1].close()
    waiting = lab.dial(listeners[0])
    assert wake_of(holds[0]) is not None
    holds[0].replay()
    assert is_connected(waiting)
    holds[0].close()


# -- what belongs to others -----------------------------------------------------------------------


def test_foreign_filters_stay_and_still_run(lab: Lab, datapath: Datapath):
    """Somebody's clsact and filter survive attach and detach, and judge what we let pass."""
    drop_all = "1,6 0 0 2,"  # classic BPF: return TC_ACT_SHOT
    lab.pod.shell(
        "tc qdisc del dev eth0 clsact || true; tc qdisc add dev eth0 clsact;"
        f"tc filter add dev eth0 ingress pref 50000 protocol ip bpf da bytecode '{drop_all}'"
    )
    try:
        receiver = lab.datagrams(socket.AF_INET)
        sender = lab.client.socket(socket.AF_INET, socket.SOCK_DGRAM)
        hold = datapath.attach(lab.pod.pid, "sandbox").hold("container")
        hold.only([udp(receiver)], [])
        sender.sendto(b"x", (POD[socket.AF_INET], port_of(receiver)))
        assert wake_of(hold) is not None, "ours comes first"
        hold.replay()
        assert not is_readable(receiver), "what we let pass goes on to the filters behind"
        datapath.forget("sandbox")
        left = lab.pod.shell("tc filter show dev eth0 ingress; tc filter show dev eth0 egress")
        assert "bytecode" in left
        assert "zeropod" not in left
        assert "clsact" in lab.pod.shell("tc qdisc show dev eth0")
    finally:
        lab.pod.shell("tc qdisc del dev eth0 clsact")


def test_attach_twice_changes_nothing(lab: Lab, datapath: Datapath, pod: Pod):
    """Attaching again, also after a restart, leaves one filter per direction and the same slot."""
    show = "tc filter show dev eth0 ingress; tc filter show dev eth0 egress"
    before = lab.pod.shell(show)
    assert before.count("zeropod_") == 2
    datapath.attach(lab.pod.pid, "sandbox")
    assert lab.pod.shell(show) == before


def test_a_link_that_comes_later_is_found_at_the_next_hold(lab: Lab, pod: Pod):
    """A second interface, whatever its name, is held like the first."""
    lab.client.shell(
        f"ip link add cable2 type veth peer name net1 netns {lab.pod.pid};"
        "ip addr add 10.232.0.1/24 dev cable2; ip link set cable2 up"
    )
    lab.pod.shell("ip addr add 10.232.0.2/24 dev net1; ip link set net1 up")
    try:
        hold = pod.hold("container")
        listener = lab.serve(socket.AF_INET)
        hold.only([tcp(listener)], [])
        caller = lab.client.socket(socket.AF_INET, socket.SOCK_STREAM)
        caller.setblocking(False)
        caller.connect_ex(("10.232.0.2", port_of(listener)))
        assert wake_of(hold) is not None
        hold.replay()
        assert is_connected(caller, 0.5)
        hold.close()
    finally:
        lab.client.shell("ip link del cable2")


# -- crashes --------------------------------------------------------------------------------------


def test_a_dead_daemon_resets_nobody_and_its_successor_takes_over(lab: Lab, root: Path):
    """Without the TAP packets are dropped; adopt holds again, and retransmissions wake."""
    first = Datapath.open(root)
    listener = lab.serve(socket.AF_INET)
    peer, end = lab.connect(listener)
    sleeping = first.attach(lab.pod.pid, "sandbox").hold("container")
    ports, connections = [tcp(listener)], [connection(end)]
    sleeping.only(ports, connections)
    crash(sleeping)
    peer.sendall(b"anybody?")
    caller = lab.dial(listener)
    time.sleep(0.3)
    assert not is_readable(peer), "reset or end of file"
    assert not is_readable(listener)
    assert not is_connected(caller, 0)

    second = Datapath.open(root)
    (held,) = second.holds()
    assert (held.sandbox_id, held.container_id, held.mode) == ("sandbox", "container", "set")
    assert (held.ports, held.connections) == (frozenset(ports), frozenset(connections))
    adopted = second.attach(lab.pod.pid, "sandbox").adopt("container", ports, connections)
    try:
        assert wake_of(adopted) is not None
        until_queued(adopted, 2)
        adopted.replay()
        end.settimeout(0.15)
        assert end.recv(100) == b"anybody?"
        assert is_connected(caller, 0.5)
        adopted.close()
        assert second.holds() == []
    finally:
        second.forget("sandbox")


def test_what_a_dead_daemon_held_for_an_awake_container_can_be_let_go(lab: Lab, root: Path):
    """A crash in phase 2, the application awake: abandon ends the hold and lo's sysctls."""
    first = Datapath.open(root)
    listener = lab.serve(socket.AF_INET)
    before = sysctl(lab.pod, "net/ipv4/conf/lo/route_localnet")
    sleeping = first.attach(lab.pod.pid, "sandbox").hold("container")
    sleeping.syns([tcp(listener)])
    sleeping.everything(Others(frozenset([Port("udp", 9)])))
    crash(sleeping)
    second = Datapath.open(root)
    pod = second.attach(lab.pod.pid, "sandbox")
    try:
        assert not is_connected(lab.dial(listener), 0.2)
        pod.abandon("container")
        assert is_connected(lab.dial(listener), 0.5)
        assert second.holds() == []
        assert sysctl(lab.pod, "net/ipv4/conf/lo/route_localnet") == before
    finally:
        second.forget("sandbox")


def test_a_hold_goes_with_a_container_that_could_not_be_taken_over(lab: Lab, root: Path):
    """A daemon adopts it, fails, and hears that it has ended: its successor has the same port in the same pod."""
    first = Datapath.open(root)
    listener = lab.serve(socket.AF_INET)
    sleeping = first.attach(lab.pod.pid, "sandbox").hold("container")
    sleeping.only([tcp(listener)], [])
    crash(sleeping)
    second = Datapath.open(root)
    second.attach(lab.pod.pid, "sandbox").adopt("container", [tcp(listener)], [])
    try:
        assert not is_connected(lab.dial(listener), 0.2)
        second.abandon("sandbox", "container")
        assert is_connected(lab.dial(listener), 5)
        assert second.holds() == []
    finally:
        second.forget("sandbox")


def test_filters_of_an_incompatible_build_are_replaced_without_a_reset(lab: Lab, root: Path):
    """New maps know of no hold yet: until the daemon has adopted, strays are dropped."""
    old = Datapath.open(root)
    listener = lab.serve(socket.AF_INET)
    peer, end = lab.connect(listener)
    sleeping = old.attach(lab.pod.pid, "sandbox").hold("container")
    sleeping.only([tcp(listener)], [connection(end)])
    vanish(end)
    other = root.with_name(root.name + "-other")
    new = Datapath.open(other)
    try:
        pod = new.attach(lab.pod.pid, "sandbox")
        peer.sendall(b"anybody?")
        assert not is_readable(peer, 0.3)
        adopted = pod.adopt("container", [tcp(listener)], [connection_of(peer)])
        assert wake_of(adopted) is not None
        adopted.close()
    finally:
        new.forget("sandbox")
        shutil.rmtree(other)
        old.forget("sandbox")


# -- coming and going -----------------------------------------------------------------------------


def test_a_forgotten_pod_leaves_nothing_to_the_next_owner_of_its_slot(lab: Lab, root: Path):
    """All entries of a slot go with its pod."""
    datapath = Datapath.open(root)
    pod = datapath.attach(lab.pod.pid, "first")
    listener = lab.serve(socket.AF_INET)
    peer, end = lab.connect(listener)
    peer.sendall(b"x")
    end.recv(1)
    port = tcp(listener)
    assert pod.activity([port])[port].last_in > 0
    pod.hold("container").only([port], [connection(end)])
    datapath.forget("first")
    assert (datapath.sandboxes(), datapath.holds()) == ([], [])
    try:
        pod = datapath.attach(lab.pod.pid, "second")
        assert pod.activity([port])[port] == (0, 0)
        peer.sendall(b"y")
        assert end.recv(1) == b"y"
    finally:
        datapath.forget("second")
    assert not any(True for _ in _entries(root))


def _entries(root: Path) -> Iterator[object]:
    from bpf.maps import Maps  # noqa: PLC0415

    opened = Maps(Pins(root).map)
    tables = (opened.pods, opened.ports, opened.conns, opened.pod_names, opened.hold_names)
    return itertools.chain.from_iterable(tables)


def test_sleeping_and_waking_a_hundred_times_loses_nothing(lab: Lab, pod: Pod):
    """Cycles with a connection that talks all the time: every byte arrives once, in order."""
    listener = lab.serve(socket.AF_INET)
    peer, end = lab.connect(listener)
    stop, sent = threading.Event(), []

    def talk() -> None:
        for number in itertools.count():
            if stop.is_set():
                return
            message = struct.pack("!I", number)
            peer.sendall(message)
            sent.append(number)
            time.sleep(0.001)

    thread = threading.Thread(target=talk)
    thread.start()
    hold = pod.hold("container")
    for _ in range(100):
        hold.syns([tcp(listener)])
        hold.everything(Others())
        hold.only([tcp(listener)], [connection(end)])
        assert wake_of(hold) is not None
        hold.replay()
    stop.set()
    thread.join()
    hold.close()
    got = b""
    while len(got) < 4 * len(sent):
        got += end.recv(1 << 16)
    assert list(struct.unpack(f"!{len(sent)}I", got)) == sent


def test_a_pod_is_forgotten_and_attached_at_the_same_time(lab: Lab, datapath: Datapath):
    """Whoever comes last has its way as a whole: filters and slot of one pod, or nothing at all."""
    for _ in range(20):
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            datapath.attach(lab.pod.pid, "sandbox")
            forgotten = pool.submit(datapath.forget, "sandbox")
            attached = pool.submit(datapath.attach, lab.pod.pid, "sandbox")
            forgotten.result()
            attached.result()
        filters = lab.pod.shell("tc filter show dev eth0 ingress").count("zeropod_")
        assert filters == len(datapath.sandboxes())
        if filters:
            listener = lab.serve(socket.AF_INET)
            hold = datapath.attach(lab.pod.pid, "sandbox").hold("container")
            hold.only([tcp(listener)], [])
            lab.dial(listener)
            assert wake_of(hold) is not None
        datapath.forget("sandbox")
    assert datapath.sandboxes() == []
