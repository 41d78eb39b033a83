"""Who owns which slot and which hold: numbers handed out, and remembered in the pinned maps."""

from __future__ import annotations

import threading
from collections.abc import Container, Iterable
from typing import Literal, NamedTuple

from bpf import maps
from bpf.maps import ConnKey, Maps, NetworkKey, Owner, PortKey
from redirector.endpoints import Connection, Held, Port
from redirector.errors import FullError

_MODES: dict[int, Literal["off", "syns", "everything", "set", "live"]] = {
    maps.MODE_OFF: "off",
    maps.MODE_SYNS: "syns",
    maps.MODE_EVERYTHING: "everything",
    maps.MODE_SET: "set",
    maps.MODE_LIVE: "live",
}


class Loopback(NamedTuple):
    """What lo's sysctls were before we changed them; `saved` is False when we did not."""

    saved: bool = False
    route_localnet: int = 0
    accept_local: int = 0


class Slot(NamedTuple):
    """A pod as the maps remember it."""

    number: int
    sandbox_id: str
    netns: int
    loopback: Loopback


class Registry:
    """The pinned maps seen as tables of pods and holds. One per process."""

    def __init__(self, opened: Maps) -> None:
        self.maps = opened
        self._lock = threading.Lock()

    def slots(self) -> list[Slot]:
        """Return every pod that has a slot."""
        found = []
        for number, owner in self.maps.pod_names.items():
            netns, saved, route_localnet, accept_local = owner.values
            loopback = Loopback(bool(saved), route_localnet, accept_local)
            found.append(Slot(number, owner.text, netns, loopback))
        return found

    def slot(self, sandbox_id: str, netns: int) -> Slot:
        """Return the slot of a pod; a free one is taken when it has none.

        Raises:
            FullError: every slot is taken.
        """
        with self._lock:
            taken = {slot.number: slot for slot in self.slots()}
            for slot in taken.values():
                if slot.sandbox_id == sandbox_id:
                    return slot
            for number in range(1, maps.MAX_SLOTS + 1):
                if number not in taken:
                    fresh = Slot(number, sandbox_id, netns, Loopback())
                    self.remember(fresh)
                    return fresh
        message = f"no free slot for pod {sandbox_id}"
        raise FullError(message)

    def remember(self, slot: Slot) -> None:
        """Store what is to be known of a pod after a restart."""
        values = (slot.netns, int(slot.loopback.saved), *slot.loopback[1:])
        self.maps.pod_names.put(slot.number, Owner(slot.sandbox_id, values))

    def hold_ids(self, slot: int) -> dict[str, int]:
        """Return the holds of a pod: container id to hold."""
        return {
            owner.text: number
            for number, owner in self.maps.hold_names.items()
            if owner.values[0] == slot
        }

    def hold_id(self, slot: int, container_id: str) -> int:
        """Return the hold of a container; a free one is taken when it has none.

        Raises:
            FullError: every hold is taken.
        """
        with self._lock:
            known = self.hold_ids(slot).get(container_id)
            if known is not None:
                return known
            taken = set(self.maps.hold_names)
            for number in range(1, maps.MAX_HOLDS):
                if number not in taken:
                    self.maps.counts.put(number, maps.Counts())
                    self.maps.hold_names.put(number, Owner(container_id, (slot, 0, 0, 0)))
                    return number
        message = f"no free hold for container {container_id}"
        raise FullError(message)

    def drop_hold(self, number: int) -> None:
        """Forget a hold with all its entries: what it held passes."""
        self.maps.holds.put(number, maps.HoldEntry(0, maps.MODE_OFF, 0, 0))
        self.drop_ports(key for key, hold in self.maps.ports.items() if hold == number)
        self.drop_connections(key for key, hold in self.maps.conns.items() if hold == number)
        self.maps.hold_names.drop(number)

    def drop_ports(self, keys: Iterable[PortKey]) -> None:
        """Remove entries of the map of ports."""
        for key in list(keys):
            self.maps.ports.drop(key)

    def drop_connections(self, keys: Iterable[ConnKey]) -> None:
        """Remove entries of the map of connections, and how they stood."""
        for key in list(keys):
            self.maps.conns.drop(key)
            self.maps.streams.drop(key)

    def drop_networks(self, slot: int, keep: Container[NetworkKey] = ()) -> None:
        """Remove what a pod ignores, but `keep`."""
        for key in self.maps.networks:
            if key.slot == slot and key not in keep:
                self.maps.networks.drop(key)

    def drop_slot(self, number: int) -> None:
        """Forget a pod, so that its slot can be another's."""
        for hold in self.hold_ids(number).values():
            self.drop_hold(hold)
        self.maps.pods.drop(number)
        self.maps.pinged.put(number, 0)
        self.drop_networks(number)
        self.drop_ports(key for key in self.maps.ports if key.slot == number)
        self.drop_connections(key for key in self.maps.conns if key.slot == number)
        # Not those that pass: there are thousands of all pods, and they are older than the slot's next pod.
        for key in self.maps.activity:
            if key.slot == number:
                self.maps.activity.drop(key)
        self.maps.pod_names.drop(number)

    def held(self) -> list[Held]:
        """Return every hold with what it holds."""
        names = {slot.number: slot.sandbox_id for slot in self.slots()}
        ports: dict[int, set[Port]] = {}
        for port, hold in self.maps.ports.items():
            ports.setdefault(hold, set()).add(Port(port.proto, port.port))
        connections: dict[int, set[Connection]] = {}
        for conn, hold in self.maps.conns.items():
            connections.setdefault(hold, set()).add(Connection(*conn[2:]))
        found = []
        for number, owner in self.maps.hold_names.items():
            entry = self.maps.holds.get(number)
            mode = entry.mode if entry else maps.MODE_OFF
            found.append(
                Held(
                    names.get(owner.values[0], ""),
                    owner.text,
                    _MODES[mode & maps.MODE_SCOPE],
                    bool(mode & maps.MODE_DRAIN),
                    frozenset(ports.get(number, ())),
                    frozenset(connections.get(number, ())),
                )
            )
        return found
