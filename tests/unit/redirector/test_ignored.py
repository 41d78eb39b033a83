"""Whose traffic a pod ignores."""

from __future__ import annotations

from typing import Any

import pytest

from bpf import maps
from redirector.ignored import Ignored
from redirector.podstate import PodState
from redirector.registry import Registry


@pytest.mark.parametrize(
    ("network", "inside", "outside"),
    [
        ("10.1.0.0/16", "10.1.2.3", "10.2.0.1"),
        ("10.1.2.3", "10.1.2.3", "10.1.2.4"),
        ("10.1.2.3/16", "10.1.9.9", "10.2.0.1"),
        ("0.0.0.0/0", "192.0.2.1", "2001:db8::1"),
        ("2001:db8::/32", "2001:db8::1", "2001:db9::1"),
        ("::/0", "2001:db8::1", "192.0.2.1"),
        ("::ffff:10.0.0.0/104", "10.9.9.9", "11.0.0.1"),
    ],
)
def test_a_peer_is_in_a_network_or_not(network: str, inside: str, outside: str):
    """IPv4 is IPv4 however it is written, and the networks of one family have none of the other in them."""
    ignored = Ignored.of([network])
    assert ignored.has_ip(inside)
    assert not ignored.has_ip(outside)


def test_nobody_is_ignored_by_default():
    """Without a network."""
    assert not Ignored().has_ip("10.0.0.1")


@pytest.mark.parametrize("text", ["10.1.0.0/16", "0.0.0.0/0", "::/0", "fd00::/8", "10.0.0.1/32"])
def test_a_network_survives_the_maps(text: str):
    """Packed as the trie wants it, and back."""
    key = maps.NetworkKey(7, next(iter(Ignored.of([text]).networks)))
    assert maps._unpack_network(maps._pack_network(key)) == key


def test_the_maps_have_what_was_said_last(tables: Any):
    """Entries of before go, another pod's stay; with nothing to ignore the programs do not look."""
    registry = Registry(tables)
    other = PodState(registry, registry.slot("other", 1))
    other.ignore(Ignored.of(["10.0.0.0/8"]))
    pod = PodState(registry, registry.slot("sandbox", 2))
    pod.ignore(Ignored.of(["10.0.0.0/8", "fd00::/8"]))
    assert tables.pods[pod.slot.number].ignores
    pod.ignore(Ignored.of(["fd00::/8"]))
    assert [str(key.network) for key in tables.networks if key.slot == pod.slot.number] == [
        "fd00::/8"
    ]
    pod.ignore(Ignored())
    assert not tables.pods[pod.slot.number].ignores
    registry.drop_slot(other.slot.number)
    assert not tables.networks
