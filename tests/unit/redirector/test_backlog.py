"""The queue of one hold: order, bounds, copies."""

from __future__ import annotations

import pytest
from unit.redirector.packets import TCP, UDP, ipv4, tcp_header, udp_header

from redirector import frames
from redirector.backlog import OVERHEAD, Backlog, Queued
from redirector.endpoints import Port
from redirector.frames import ACK, SYN, Claims
from redirector.settings import Settings

MORE = 0x2000


def queued(raw: bytes) -> Queued:
    return Queued(raw, frames.parse(raw))


def syn(sport: int) -> Queued:
    return queued(ipv4(tcp_header(sport, 80, flags=SYN), TCP))


def data(seq: int, size: int = 10) -> Queued:
    return queued(ipv4(tcp_header(9, 80, flags=ACK, seq=seq) + bytes(size), TCP))


def datagram(dport: int, body: bytes = b"") -> Queued:
    return queued(ipv4(udp_header(9, dport) + body, UDP))


def test_frames_leave_in_the_order_they_came():
    """Whatever is taken out of the middle, the rest keeps its order."""
    backlog = Backlog(Settings())
    items = [syn(1), datagram(53), data(1), datagram(54), data(2)]
    assert all(backlog.add(item) for item in items)
    assert backlog.take(lambda item: item is items[1]) == [items[1]]
    assert backlog.take() == [items[0], *items[2:]]
    assert (len(backlog), backlog.bytes) == (0, 0)


def test_a_retransmission_is_kept_once():
    """The same tuple, sequence, flags and length is one frame; a longer one is another."""
    backlog = Backlog(Settings())
    assert backlog.add(data(1))
    assert not backlog.add(data(1))
    assert backlog.add(data(1, 20))
    assert (len(backlog), backlog.dropped) == (2, 1)
    backlog.take()
    assert backlog.add(data(1)), "once replayed it may come again"


def test_equal_datagrams_are_all_kept():
    """UDP has no retransmissions: the same bytes twice are two datagrams."""
    backlog = Backlog(Settings())
    assert all(backlog.add(datagram(53, b"same")) for _ in range(3))
    assert len(backlog) == 3


def test_a_full_queue_drops_new_connections_first():
    """A SYN gives its place to data, the youngest first; without SYNs the newcomer is dropped."""
    backlog = Backlog(Settings(queue_frames=3))
    first, second, segment = syn(1), syn(2), data(1)
    for item in (first, second, segment):
        backlog.add(item)
    assert not backlog.add(syn(3))
    assert backlog.add(data(2))
    assert backlog.add(data(3))
    assert not backlog.add(data(4))
    assert backlog.dropped == 4
    assert backlog.take() == [segment, data(2), data(3)]


def test_bytes_are_bounded_too():
    """Few large frames fill the queue as well, bookkeeping counted."""
    item = datagram(53, bytes(1000))
    room = 4 * (len(item.raw) + OVERHEAD)
    backlog = Backlog(Settings(queue_bytes=room))
    assert [backlog.add(item) for _ in range(5)] == [True] * 4 + [False]
    assert backlog.bytes == room


@pytest.mark.parametrize("order", [1, -1], ids=["in-order", "reversed"])
def test_strangers_leave_with_their_fragments(order: int):
    """Claimed fragments stay with their first one, those of others go with theirs."""
    mine = [
        queued(ipv4(udp_header(9, 53) + bytes(8), UDP, fragment=MORE, ident=1)),
        queued(ipv4(bytes(8), UDP, fragment=2, ident=1)),
    ][::order]
    theirs = [
        queued(ipv4(udp_header(9, 99) + bytes(8), UDP, fragment=MORE, ident=2)),
        queued(ipv4(bytes(8), UDP, fragment=2, ident=2)),
    ][::order]
    orphan = queued(ipv4(bytes(8), UDP, fragment=2, ident=3))
    backlog = Backlog(Settings())
    for item in (*mine, *theirs, orphan, syn(1)):
        backlog.add(item)
    claims = Claims(frozenset([Port("udp", 53)]))
    assert backlog.take_strangers(claims) == [*theirs, orphan, syn(1)]
    assert backlog.take() == mine


def test_of_what_is_ignored_the_newest_is_kept():
    """A scraper that comes for days leaves what it waits for now, and its order among the rest."""
    backlog = Backlog(Settings(ignored_frames=2))
    client = syn(1)
    backlog.add(syn(10), ignored=True)
    backlog.add(client)
    assert all(backlog.add(syn(sport), ignored=True) for sport in (11, 12, 13))
    assert backlog.dropped == 2
    assert backlog.take() == [client, syn(12), syn(13)]


def test_what_is_ignored_makes_way():
    """A full queue gives up ignored frames before a client's new connection, and takes no new ones."""
    backlog = Backlog(Settings(queue_frames=2))
    backlog.add(data(1))
    backlog.add(syn(10), ignored=True)
    assert backlog.add(syn(1))
    assert not backlog.add(syn(11), ignored=True)
    assert backlog.take() == [data(1), syn(1)]
