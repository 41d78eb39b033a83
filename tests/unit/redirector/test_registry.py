"""Slots, holds and a pod's entry, on maps that are dictionaries."""

from __future__ import annotations

from typing import Any

import pytest

from bpf import maps
from bpf.maps import HoldEntry, Iface, PortKey
from redirector.endpoints import Connection, Held, Others, Port
from redirector.errors import BusyError, FullError
from redirector.podstate import PodState
from redirector.registry import Loopback, Registry

WEB, DNS = Port("tcp", 80), Port("udp", 53)
PEER = Connection("10.0.0.2", 80, "10.0.0.1", 4242)


@pytest.fixture
def registry(tables: Any) -> Registry:
    return Registry(tables)


@pytest.fixture
def pod(registry: Registry) -> PodState:
    return PodState(registry, registry.slot("sandbox", 4026531840))


def test_a_pod_keeps_its_slot_over_a_restart(tables: Any, registry: Registry):
    """The slot, the namespace and lo's saved sysctls are read back from the maps."""
    first = registry.slot("one", 1)
    second = registry.slot("two", 2)._replace(loopback=Loopback(True, 0, 1))
    registry.remember(second)
    assert first.number != second.number
    restarted = Registry(tables)
    assert restarted.slot("two", 2) == second
    assert {slot.sandbox_id for slot in restarted.slots()} == {"one", "two"}


def test_a_dropped_slot_is_given_out_clean(tables: Any, registry: Registry):
    """Whatever belonged to the slot goes with it, and nobody else's."""
    gone, stays = registry.slot("gone", 1), registry.slot("stays", 2)
    for slot in (gone, stays):
        hold = registry.hold_id(slot.number, "container")
        tables.ports[PortKey(slot.number, "tcp", 80)] = hold
        tables.activity[PortKey(slot.number, "tcp", 80)] = maps.Times(1, 2)
        tables.pods[slot.number] = maps.PodEntry(holds=1)
        tables.pinged[slot.number] = 7
    registry.drop_slot(gone.number)
    assert tables.pinged == {gone.number: 0, stays.number: 7}
    assert {key.slot for key in (*tables.ports, *tables.activity)} == {stays.number}
    assert registry.slot("new", 3).number == gone.number
    assert registry.hold_ids(gone.number) == {}


def test_slots_and_holds_run_out_with_a_reason(tables: Any, registry: Registry):
    """The error names the pod or the container that found none left."""
    for number in range(1, maps.MAX_SLOTS + 1):
        tables.pod_names[number] = maps.Owner(f"pod-{number}")
    with pytest.raises(FullError, match="one-more"):
        registry.slot("one-more", 1)
    for number in range(1, maps.MAX_HOLDS):
        tables.hold_names[number] = maps.Owner(f"container-{number}", (1, 0, 0, 0))
    with pytest.raises(FullError, match="one-too-many"):
        registry.hold_id(2, "one-too-many")
    assert registry.hold_id(1, "container-7") == 7


def test_what_is_held_can_be_told_after_a_restart(tables: Any, pod: PodState):
    """Pod, container, mode, ports and connections of every hold come out of the maps."""
    hold = pod.registry.hold_id(pod.slot.number, "container")
    tables.holds[hold] = HoldEntry(9, maps.MODE_SET | maps.MODE_DRAIN, 0, pod.slot.number)
    tables.ports[pod.port_key(WEB)] = hold
    tables.conns[pod.connection_key(PEER)] = hold
    assert Registry(tables).held() == [
        Held("sandbox", "container", "set", True, frozenset([WEB]), frozenset([PEER]))
    ]


def test_the_programs_look_only_while_something_is_held(tables: Any, pod: PodState):
    """The count of holds goes up and down with them, and ends at zero."""
    pod.set_links((Iface(2, b"\2\0\0\0\0\1"),))
    entry = tables.pods
    pod.enter(5)
    pod.enter(6)
    assert (entry[pod.slot.number].holds, entry[pod.slot.number].fallback) == (2, 6)
    assert not pod.leave(6)
    assert (entry[pod.slot.number].holds, entry[pod.slot.number].fallback) == (1, 5)
    assert pod.leave(5)
    assert (entry[pod.slot.number].holds, entry[pod.slot.number].fallback) == (0, 0)
    assert entry[pod.slot.number].ifaces == (Iface(2, b"\2\0\0\0\0\1"),)


def test_siblings_pass_in_phase_two_but_never_what_is_held(tables: Any, pod: PodState):
    """A held port stays held though a sibling names it; the rest is taken back afterwards."""
    tables.ports[pod.port_key(WEB)] = 5
    pod.begin_everything(6, Others(frozenset([WEB, DNS]), frozenset([PEER])))
    assert tables.ports == {pod.port_key(WEB): 5, pod.port_key(DNS): 0}
    assert tables.conns == {pod.connection_key(PEER): 0}
    assert tables.pods[pod.slot.number].everything == 6
    pod.end_everything(5)
    assert tables.pods[pod.slot.number].everything == 6, "not 5's to end"
    pod.end_everything(6)
    assert tables.pods[pod.slot.number].everything == 0
    assert (tables.ports, tables.conns) == ({pod.port_key(WEB): 5}, {})


def test_phase_two_is_one_containers_at_a_time(pod: PodState):
    """The second is told to come again; the first may repeat itself."""
    pod.begin_everything(5, Others())
    pod.begin_everything(5, Others())
    with pytest.raises(BusyError, match="sandbox"):
        pod.begin_everything(6, Others())
    pod.end_everything(5)
    pod.begin_everything(6, Others())


def test_a_phase_two_that_nobody_remembers_is_ended(tables: Any, pod: PodState):
    """After a crash, recover takes back what was let through, of this pod only."""
    pod.begin_everything(5, Others(frozenset([DNS]), frozenset([PEER])))
    foreign = PortKey(pod.slot.number + 1, "udp", 53)
    tables.ports[foreign] = 0
    restarted = PodState(pod.registry, pod.slot)
    restarted.recover()
    assert tables.pods[pod.slot.number].everything == 0
    assert (tables.ports, tables.conns) == ({foreign: 0}, {})


def test_a_pod_that_is_gone_writes_nothing_any_more(tables: Any, pod: PodState):
    """A hold may still be closing when the pod is forgotten; its slot can be another pod's by then."""
    pod.enter(3)
    pod.retire()
    pod.registry.drop_slot(pod.slot.number)
    pod.leave(3)
    pod.remember(Loopback(True, 0, 0))

    assert pod.registry.slots() == []
    assert pod.registry.maps.pods.get(pod.slot.number) is None
