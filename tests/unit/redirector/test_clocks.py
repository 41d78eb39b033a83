"""Clocks of ports: kept ones, passing ones, and those of the slot's last owner."""

from __future__ import annotations

from typing import Any

import pytest

from bpf.maps import CAME, WENT, PortKey, Times
from redirector import clocks
from redirector.endpoints import Activity, Port
from redirector.podstate import KEPT, PodState
from redirector.registry import Registry

WEB, DNS = Port("tcp", 80), Port("udp", 41000)


@pytest.fixture
def state(tables: Any) -> PodState:
    registry = Registry(tables)
    return PodState(registry, registry.slot("sandbox", 1))


def at(state: PodState, seconds: float) -> int:
    """A time since the pod came."""
    return state.born + int(1e9 * seconds)


def test_a_kept_port_goes_on_with_its_passing_clock(tables: Any, state: PodState):
    """What was seen before anybody asked counts, and cannot be evicted any more."""
    key = state.port_key(WEB)
    tables.passing[key] = Times(at(state, 1), at(state, 2), CAME)
    expected = {WEB: Activity(at(state, 1), at(state, 2))}
    assert clocks.read(state, [WEB], kept=[WEB]) == expected
    tables.passing.clear()
    assert clocks.read(state, [WEB]) == expected
    tables.activity[key] = Times(at(state, 3), at(state, 4), CAME)
    assert clocks.read(state, [WEB], kept=[WEB]) == {WEB: Activity(at(state, 3), at(state, 4))}


def test_a_port_that_nobody_knows_was_never_used(state: PodState):
    """Neither in nor out."""
    assert clocks.read(state, [WEB]) == {WEB: Activity(0, 0)}


def test_times_of_the_slots_last_owner_are_none(tables: Any, state: PodState):
    """Passing clocks outlive their pod; a new one with the same slot must not see them."""
    tables.passing[state.port_key(DNS)] = Times(at(state, -9), at(state, -8), WENT)
    assert clocks.read(state, [DNS]) == {DNS: Activity(0, 0)}
    assert clocks.callers(state, [DNS]) == set()
    tables.passing[state.port_key(DNS)] = Times(at(state, 1), at(state, -8), WENT)
    assert clocks.read(state, [DNS]) == {DNS: Activity(at(state, 1), 0)}
    assert clocks.callers(state, [DNS]) == set()


def test_who_spoke_first_is_a_caller(tables: Any, state: PodState):
    """However often it was answered since."""
    tables.passing[state.port_key(DNS)] = Times(at(state, 2), at(state, 1), WENT)
    tables.activity[state.port_key(WEB)] = Times(at(state, 1), at(state, 2), CAME)
    assert clocks.callers(state, [DNS, WEB]) == {DNS}


def test_a_slot_is_born_once(tables: Any):
    """A restart of the daemon goes on with the clocks there are; the slot's next pod does not."""
    registry = Registry(tables)
    slot = registry.slot("sandbox", 1)
    first = PodState(registry, slot)
    first.set_links(())
    assert PodState(registry, slot).born == first.born
    registry.drop_slot(slot.number)
    assert PodState(registry, registry.slot("next", 2)).born > first.born
    assert PortKey(slot.number, "tcp", 80) not in tables.activity


def test_one_pod_does_not_fill_the_map(tables: Any, state: PodState):
    """Its first ports are kept; what it opens later passes. A pod that is gone leaves nothing behind."""
    ports = [Port("tcp", number) for number in range(1, 2 * KEPT)]
    clocks.read(state, ports, kept=ports)
    assert len(tables.activity) == KEPT
    state.registry.drop_slot(state.slot.number)
    state.retire()
    clocks.read(state, [WEB], kept=[WEB])
    assert not tables.activity
