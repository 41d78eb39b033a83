"""Timers of keepalives: who is due when. Time is a number."""

from __future__ import annotations

from redirector.endpoints import Keepalive
from redirector.keepalives import Keepalives

NEVER = 0.0
START = 1000.0


def due(
    keepalives: Keepalives[str], now: float, heard: float = NEVER, most: int = 64
) -> list[str]:
    return keepalives.due(START + now, most, lambda _: START + heard if heard else NEVER)


def test_the_first_is_due_at_once_and_the_next_after_the_idle_time():
    """A peer that answers is asked again every `idle` seconds."""
    keepalives = Keepalives({"a": Keepalive(10, 3, 2)}, START)
    assert due(keepalives, 0) == ["a"]
    keepalives.heard("a", START + 0.5)
    assert due(keepalives, 3) == []
    assert keepalives.next() == START + 10.5
    assert due(keepalives, 10.5) == ["a"]


def test_a_silent_peer_is_asked_at_the_interval_and_never_given_up():
    """Every `interval` seconds, `count` times, then every `idle` seconds."""
    keepalives = Keepalives({"a": Keepalive(10, 3, 3)}, START)
    sent = [now for now in range(40) if due(keepalives, now)]
    assert sent == [0, 3, 6, 16, 26, 36]


def test_a_peer_may_be_heard_elsewhere():
    """The peer's own keepalives make ours needless."""
    keepalives = Keepalives({"a": Keepalive(10, 3, 3)}, START)
    due(keepalives, 0)
    assert due(keepalives, 5, heard=4) == []
    assert keepalives.next() == START + 14


def test_a_connection_that_ended_is_not_due():
    """A reset is the last word; with nobody left there is nothing to wait for."""
    keepalives = Keepalives({"a": Keepalive(10, 3, 3)}, START)
    keepalives.end("a")
    assert due(keepalives, 0) == []
    assert keepalives.next() is None


def test_many_are_sent_a_few_at_a_time():
    """The rest is due at the next call, each once."""
    keepalives = Keepalives({str(n): Keepalive(10, 3, 3) for n in range(100)}, START)
    found = [due(keepalives, 0, most=64), due(keepalives, 0, most=64), due(keepalives, 0, most=64)]
    assert [len(batch) for batch in found] == [64, 36, 0]
    assert len(set(found[0] + found[1])) == 100
