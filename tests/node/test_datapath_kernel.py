"""The datapath alone, in namespaces of its own: real packets, no containers."""

from __future__ import annotations

import concurrent.futures
import contextlib
import itertools
import os
import shutil
import socket
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from fakes.pings import OTHERS, PINGS
from node.datapath_lab import (
    ANY,
    CLIENT,
    FAMILIES,
    LOOPBACK,
    POD,
    Lab,
    connection_of,
    crash,
    is_connected,
    is_readable,
    port_of,
    sysctl,
    until,
    until_queued,
    vanish,
    wake_of,
)

from bpf.pins import Pins
from redirector.datapath import Datapath, Pod
from redirector.endpoints import Connection, Others, Port
from redirector.errors import BusyError
from redirector.hold import Hold
from redirector.ignored import Ignored
from redirector.settings import Settings

both_families = pytest.mark.parametrize("family", FAMILIES, ids=["ipv4", "ipv6"])


@pytest.fixture(scope="module")
def root() -> Iterator[Path]:
    """A place for pins apart from the daemon's."""
    place = Path(f"/sys/fs/bpf/zeropod-test-{os.getpid()}")
    yield place
    shutil.rmtree(place)


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    built = Lab()
    yield built
    built.close()


@pytest.fixture(autouse=True)
def hang_up(lab: Lab) -> Iterator[None]:
    yield
    lab.hang_up()


@pytest.fixture(scope="module")
def datapath(root: Path) -> Datapath:
    # One for all: it lives as long as its process, and a process has 1024 descriptors for select(2).
    return Datapath.open(root)


@pytest.fixture
def pod(lab: Lab, datapath: Datapath) -> Iterator[Pod]:
    yield datapath.attach(lab.pod.pid, "sandbox")
    datapath.forget("sandbox")


@pytest.fixture
def hold(pod: Pod) -> Iterator[Hold]:
    made = pod.hold("container")
    yield made
    made.close()


def tcp(sock: socket.socket) -> Port:
    return Port("tcp", port_of(sock))


def udp(sock: socket.socket) -> Port:
    return Port("udp", port_of(sock))


def connection(pod_end: socket.socket) -> Connection:
    return Connection(*pod_end.getsockname()[:2], *pod_end.getpeername()[:2])


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
        end.settimeout(5)
        assert end.recv(100) == b"anybody?"
    finally:
        second.forget("sandbox")


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
    caller.settimeout(5)
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
    thread = threading.Thread(target=lambda: (caller.settimeout(5), caller.sendall(data)))
    thread.start()
    until_queued(hold, 1)
    hold.replay()
    got = b""
    accepted.settimeout(5)
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
    caller.settimeout(2)
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
    echo.settimeout(2)
    reply = echo.recv(100)
    assert reply[20] == 0
    assert hold.queued == 0


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
