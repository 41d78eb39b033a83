"""A hold's bookkeeping, with a TAP and maps that are a few lists."""

from __future__ import annotations

import errno
import itertools
import socket
import threading
from collections import deque
from collections.abc import Callable
from typing import Any

import pytest
from unit.redirector.packets import ETHERNET, TCP, UDP, ipv4, tcp_header, udp_header

from bpf import maps
from bpf.maps import Counts, StreamEntry
from redirector import frames, links
from redirector.endpoints import Connection, Keepalive, Others, Port, Stream, Wake
from redirector.frames import ACK, RST, SYN
from redirector.hold import Hold
from redirector.podstate import PodState
from redirector.registry import Registry
from redirector.settings import Settings

STREAM = Stream(500, 500, 100, 65535, 0, None, Keepalive(1, 1, 3))
HEADER = bytes(links.VNET_HEADER)
WEB, DNS = Port("tcp", 80), Port("udp", 53)
PEER = Connection("10.0.0.2", 80, "10.0.0.1", 4242)


class Kernel:
    """The TAP's other side: counts what it redirects, and what comes back."""

    def __init__(self, tables: Any, number: int) -> None:
        self.fd, self.ifindex = 7, 3
        self.delivered: list[bytes] = []
        self.meanwhile: Callable[[], object] = lambda: None
        self._tables, self._number = tables, number
        self._waiting: deque[bytes] = deque()

    def arrive(self, frame: bytes, *, lost: bool = False) -> None:
        """Handle a frame from the network as the programs do."""
        hold, count = self._tables.holds[self._number], self._tables.counts[self._number]
        drained = hold.mode & maps.MODE_DRAIN and count.redirected == hold.confirmed
        if not hold.mode & maps.MODE_SCOPE or drained:
            self.delivered.append(frame)
            return
        self._tables.counts[self._number] = count._replace(redirected=count.redirected + 1)
        if not lost:
            self._waiting.append(frame)

    def read(self) -> bytes | None:
        """Return the next frame, as `Tap` does."""
        return HEADER + self._waiting.popleft() if self._waiting else None

    def write(self, raw: bytes) -> bool:
        """Deliver a frame; `meanwhile` happens before the next one."""
        assert raw.startswith(HEADER)
        count = self._tables.counts[self._number]
        self._tables.counts[self._number] = count._replace(replayed=count.replayed + 1)
        self.delivered.append(raw[len(HEADER) :])
        self.meanwhile()
        return True

    def close(self) -> None:
        """Remove the device."""
        self.fd = -1


@pytest.fixture
def state(tables: Any) -> PodState:
    registry = Registry(tables)
    return PodState(registry, registry.slot("sandbox", 1))


@pytest.fixture
def kernel(tables: Any, state: PodState) -> Kernel:
    number = state.registry.hold_id(state.slot.number, "container")
    state.enter(number)
    return Kernel(tables, number)


class Wire:
    """What is sent out of the pod."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []

    def send(self, packet: bytes, target: bytes) -> bool:
        """Send an IP packet, as `Raw` does."""
        assert target == socket.inet_aton(PEER.remote_ip)
        self.sent.append(packet)
        return True

    def close(self) -> None:
        """Nothing is open."""


@pytest.fixture
def wire() -> Wire:
    return Wire()


@pytest.fixture
def hold(kernel: Kernel, state: PodState, wire: Wire) -> Hold:
    tap: Any = kernel
    raw: Any = wire
    settings = Settings(drain_seconds=0.02)
    number = state.registry.hold_id(state.slot.number, "container")
    return Hold(
        "container", number, tap, state, raw=raw, settings=settings, on_close=lambda *_: None
    )


def datagram(number: int, dport: int = 53) -> bytes:
    return ipv4(udp_header(9, dport) + number.to_bytes(4, "big"), UDP)


def segment(data: bytes, dport: int = 80) -> bytes:
    return ipv4(tcp_header(4242, dport, flags=ACK) + data, TCP)


def syn(sport: int) -> bytes:
    return ipv4(tcp_header(sport, 80, flags=SYN), TCP)


def test_frames_that_come_during_the_replay_queue_behind(kernel: Kernel, hold: Hold):
    """Two new frames per old one, for a while: all are delivered in the order they came."""
    numbers = itertools.count()
    hold.only([DNS], [])
    for _ in range(3):
        kernel.arrive(datagram(next(numbers)))

    def more() -> None:
        if len(kernel.delivered) < 20:
            kernel.arrive(datagram(next(numbers)))
            kernel.arrive(datagram(next(numbers)))

    kernel.meanwhile = more
    result = hold.replay()
    kernel.arrive(datagram(next(numbers)))
    assert kernel.delivered == [datagram(number) for number in range(next(numbers))]
    assert result.dropped == 0


def test_a_replay_that_cannot_keep_up_ends(kernel: Kernel, hold: Hold, tables: Any):
    """With more coming than can be replayed the hold opens after its time, nothing stays behind."""
    numbers = itertools.count()
    hold.only([DNS], [])
    kernel.arrive(datagram(next(numbers)))
    kernel.meanwhile = lambda: kernel.arrive(datagram(next(numbers)))
    hold.replay()
    assert tables.holds[hold.number].mode == maps.MODE_OFF
    assert hold.queued == 0
    assert sorted(kernel.delivered) == [datagram(number) for number in range(next(numbers))]


def test_an_event_loop_is_not_kept_by_a_replay(kernel: Kernel, hold: Hold):
    """While another thread replays, receive comes back at once with nothing."""
    hold.only([DNS], [])
    kernel.arrive(datagram(1))
    answers: list[object] = []

    def ask() -> None:
        asker = threading.Thread(target=lambda: answers.append(hold.receive()))
        asker.start()
        asker.join(30)

    kernel.meanwhile = ask
    hold.replay()
    assert answers == [None]


def test_a_frame_the_tap_lost_is_booked_and_not_waited_for(kernel: Kernel, hold: Hold):
    """What was redirected and never arrived counts as dropped."""
    hold.only([DNS], [])
    kernel.arrive(datagram(1))
    kernel.arrive(datagram(2), lost=True)
    kernel.arrive(datagram(3))
    result = hold.replay()
    assert kernel.delivered == [datagram(1), datagram(3)]
    assert (result.frames, result.dropped) == (2, 1)


def test_copies_do_not_keep_the_drain_waiting(kernel: Kernel, hold: Hold):
    """A retransmission is redirected twice and replayed once; the accounts still close."""
    hold.only([WEB], [])
    kernel.arrive(syn(1))
    kernel.arrive(syn(1))
    result = hold.replay()
    assert kernel.delivered == [syn(1)]
    assert (result.frames, result.dropped) == (1, 1)


def test_the_held_set_releases_the_rest_in_order_and_wakes(kernel: Kernel, hold: Hold):
    """Of phase 2's catch, strangers go back at once, older before younger; the kept may wake."""
    hold.syns([WEB])
    hold.everything(Others())
    kernel.arrive(datagram(1, 99))
    assert hold.receive() is None
    kernel.arrive(segment(b"data"))
    kernel.arrive(datagram(2, 99))
    hold.only([WEB], [PEER])
    assert kernel.delivered == [datagram(1, 99), datagram(2, 99)]
    assert hold.receive() == Wake("tcp-data", "10.0.0.1:4242", WEB)
    assert hold.receive() is None
    assert hold.queued == 1


def test_a_straggler_of_phase_two_is_released_when_it_comes(kernel: Kernel, hold: Hold):
    """A sibling's frame that reaches the TAP after phase 2 does not wait for the wake."""
    hold.everything(Others())
    hold.only([WEB], [PEER])
    kernel.arrive(datagram(1, 99))
    kernel.arrive(segment(b"data"))
    hold.receive()
    assert kernel.delivered == [datagram(1, 99)]
    assert hold.queued == 1


def test_the_maps_say_what_is_held(tables: Any, kernel: Kernel, hold: Hold, state: PodState):
    """Entries follow the phases, and close leaves none."""
    ports = {state.port_key(WEB): hold.number}
    hold.syns([WEB, DNS])
    assert tables.ports == ports | {state.port_key(DNS): hold.number}
    hold.only([WEB], [PEER])
    assert tables.ports == ports
    assert tables.conns == {state.connection_key(PEER): hold.number}
    hold.close()
    hold.close()
    assert (tables.ports, tables.conns, tables.hold_names) == ({}, {}, {})
    assert tables.pods[state.slot.number].holds == 0
    assert hold.fd == -1


def test_a_successor_forgets_what_its_predecessor_lost(tables: Any, kernel: Kernel, hold: Hold):
    """After rearm, frames that went to a dead TAP do not delay the replay."""
    tables.counts[hold.number] = Counts(redirected=17, replayed=2)
    hold.rearm([DNS], [])
    assert hold.dropped == 17, "nobody waits for them"
    kernel.arrive(datagram(1))
    result = hold.replay()
    assert kernel.delivered == [datagram(1)]
    assert result.frames == 1


@pytest.mark.parametrize("phase", ["syns", "everything", "only"])
def test_any_phase_can_be_called_off(kernel: Kernel, hold: Hold, tables: Any, phase: str):
    """Replay gives back whatever a phase has caught, and ends phase 2 for the pod."""
    hold.syns([WEB])
    if phase != "syns":
        hold.everything(Others())
    if phase == "only":
        hold.only([WEB], [])
    kernel.arrive(syn(1))
    hold.receive()
    hold.replay()
    assert kernel.delivered == [syn(1)]
    assert all(pod.everything == 0 for pod in tables.pods.values())
    assert tables.holds[hold.number].mode == maps.MODE_OFF


def test_an_applications_keepalives_are_sent_while_it_sleeps(hold: Hold, wire: Wire):
    """The first at once, by the application's own interval from then on; none once it is awake."""
    hold.only([WEB], [PEER], streams={PEER: STREAM})
    again = hold.keep_alive()
    (packet,) = wire.sent
    frame = frames.parse(ETHERNET + b"\x08\x00" + packet)
    assert frame is not None
    assert (frame.seq, frame.payload, frame.flags) == (499, 0, ACK)
    assert again is not None
    assert 0 <= again <= STREAM.keepalive.idle
    hold.replay()
    assert hold.keep_alive() is None
    assert len(wire.sent) == 1


def test_a_connection_without_the_option_is_left_alone(hold: Hold, wire: Wire):
    """Who has not set SO_KEEPALIVE sends none."""
    hold.only([WEB], [PEER], streams={PEER: STREAM._replace(keepalive=None)})
    assert hold.keep_alive() is None
    assert not wire.sent


def test_nobody_probes_a_peer_that_has_reset_the_connection(
    kernel: Kernel, hold: Hold, wire: Wire
):
    """The answer to a keepalive may be a reset: it waits for the replay, and is the last word."""
    hold.only([WEB], [PEER], streams={PEER: STREAM._replace(keepalive=Keepalive(0, 0, 3))})
    hold.keep_alive()
    reset = ipv4(tcp_header(4242, 80, flags=RST), TCP)
    kernel.arrive(reset)
    assert hold.receive() is None
    assert hold.keep_alive() is None
    hold.replay()
    assert kernel.delivered == [reset]
    assert len(wire.sent) == 1


def test_the_programs_are_told_how_connections_stand_and_forget_it(
    hold: Hold, tables: Any, state: PodState
):
    """What an answer is made of is there while a container sleeps, and goes with the connection."""
    hold.only([WEB], [PEER], streams={PEER: STREAM})
    assert tables.streams == {state.connection_key(PEER): StreamEntry(500, 100, 65535, 0, None)}
    hold.only([WEB], [])
    assert tables.streams == {}


def test_what_a_full_map_took_is_given_up_with_the_hold(
    hold: Hold, tables: Any, monkeypatch: pytest.MonkeyPatch
):
    """A claim that fails half-way leaves no entry behind, which would be the number's next owner's."""
    other = PEER._replace(remote_port=4243)
    hold.only([WEB], [PEER])

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.E2BIG, "full")

    monkeypatch.setattr(tables.conns, "put", full)
    with pytest.raises(OSError, match="full"):
        hold.only([WEB, DNS], [other])
    hold.close()
    assert not tables.ports
    assert not tables.conns


def test_counting_begins_with_the_hold(tables: Any, kernel: Kernel, state: PodState, wire: Wire):
    """What was answered while an earlier process held is in its count, and not in this one's."""
    number = state.registry.hold_id(state.slot.number, "container")
    tables.counts[number] = Counts(answered=7)
    tap: Any = kernel
    raw: Any = wire
    hold = Hold(
        "container", number, tap, state, raw=raw, settings=Settings(), on_close=lambda *_: None
    )
    assert hold.answered == 0
    tables.counts[number] = Counts(answered=9)
    assert hold.answered == 2
