"""A pod's entry in the pinned maps: its links, who holds something, whose turn phase 2 is."""

from __future__ import annotations

import contextlib
import threading
import time

from bpf import maps
from bpf.maps import ConnKey, Iface, NetworkKey, PodEntry, PortKey, Times
from redirector.endpoints import Connection, Others, Port
from redirector.errors import BusyError
from redirector.ignored import Ignored
from redirector.registry import Loopback, Registry, Slot

KEPT = 256
"""Ports of one pod whose clocks are never evicted: a server that opens one port after the other must not fill the map."""


class PodState:
    """What all holds of one pod share. Every change is one update of one map entry."""

    def __init__(self, registry: Registry, slot: Slot) -> None:
        self.registry = registry
        self.slot = slot
        self._lock = threading.Lock()
        self._entry = registry.maps.pods.get(slot.number) or PodEntry(born=time.monotonic_ns())
        self._holds = set(registry.hold_ids(slot.number).values())
        self._live: set[int] = set()
        self._kept: set[PortKey] = set()
        self._retired = False
        self.ignored = Ignored()
        self._sibling_ports: list[PortKey] = []
        self._sibling_connections: list[ConnKey] = []

    @property
    def born(self) -> int:
        """When the pod got its slot (ns of CLOCK_MONOTONIC)."""
        return self._entry.born

    def port_key(self, port: Port) -> PortKey:
        """Return the map's key of a port of this pod."""
        return PortKey(self.slot.number, port.proto, port.number)

    def connection_key(self, connection: Connection) -> ConnKey:
        """Return the map's key of a TCP connection of this pod."""
        return ConnKey(self.slot.number, "tcp", *connection)

    def _store(self, entry: PodEntry) -> None:
        if entry != self._entry:
            self._put(entry)

    def _put(self, entry: PodEntry) -> None:
        if not self._retired:
            self.registry.maps.pods.put(self.slot.number, entry)
        self._entry = entry

    def retire(self) -> None:
        """Write nothing any more: the slot may be another pod's by the time a hold's last thread is done."""
        with self._lock:
            self._retired = True

    def remember(self, loopback: Loopback) -> None:
        """Note how lo's sysctls were before they were changed."""
        with self._lock:
            self.slot = self.slot._replace(loopback=loopback)
            if not self._retired:
                self.registry.remember(self.slot)

    def set_links(self, ifaces: tuple[Iface, ...]) -> None:
        """Store where replayed frames go; Ethernet links only, the first is the default."""
        with self._lock:
            self._put(self._entry._replace(ifaces=ifaces[: maps.MAX_IFACES]))

    def set_quarantine(self, until: int) -> None:
        """Drop segments without a socket until `until` (ns of CLOCK_MONOTONIC)."""
        with self._lock:
            self._store(self._entry._replace(quarantine=until))

    def ignore(self, ignored: Ignored) -> None:
        """Have the programs note no activity of this any more, and of everything else again."""
        number, tables = self.slot.number, self.registry.maps
        with self._lock:
            self.ignored = ignored
            if self._retired or not (ignored.networks or self._entry.ignores):
                return
            keys = {NetworkKey(number, network) for network in ignored.networks}
            for key in keys:
                tables.networks.put(key, key.network.version)
            self.registry.drop_networks(number, keep=keys)
            self._store(self._entry._replace(ignores=int(bool(keys))))

    @property
    def tells_calls(self) -> bool:
        """Whether the kubelet's connections are told from others."""
        return bool(self._entry.calls)

    def tell_calls(self, tell: bool) -> None:
        """Have the programs tell the kubelet's connections from others, or not."""
        with self._lock:
            self._store(self._entry._replace(calls=int(tell)))

    def keep(self, port: Port) -> None:
        """Have a port's clock kept while the pod lives; it goes on with what has passed."""
        key, tables = self.port_key(port), self.registry.maps
        with self._lock:
            if self._retired or key in self._kept or len(self._kept) >= KEPT:
                return
            if tables.activity.get(key) is None:
                tables.activity.put(key, tables.passing.get(key) or Times(0, 0))
            self._kept.add(key)

    def enter(self, hold: int) -> None:
        """Count `hold` among the holds of the pod, which makes the programs look."""
        with self._lock:
            self._holds.add(hold)
            self._live.add(hold)
            self._store(self._entry._replace(holds=len(self._holds), fallback=hold))

    def leave(self, hold: int) -> bool:
        """Forget `hold`; True when it was the last of the pod."""
        self.end_everything(hold)
        with self._lock:
            self._holds.discard(hold)
            self._live.discard(hold)
            fallback = max(self._holds, default=0)
            self._store(self._entry._replace(holds=len(self._holds), fallback=fallback))
            return not self._holds

    def begin_everything(self, hold: int, others: Others) -> None:
        """Give the whole pod to `hold`, except what is known to be `others`'.

        Raises:
            BusyError: another container's phase 2 is not over.
        """
        with self._lock:
            if self._entry.everything not in (0, hold):
                message = f"pod {self.slot.sandbox_id}: another container is being frozen"
                raise BusyError(message)
            for port in others.ports:
                self._let_pass(self.port_key(port))
            for connection in others.connections:
                key = self.connection_key(connection)
                with contextlib.suppress(FileExistsError):
                    self.registry.maps.conns.put(key, 0, new=True)
                    self._sibling_connections.append(key)
            self._store(self._entry._replace(everything=hold))

    def _let_pass(self, key: PortKey) -> None:
        """Enter a sibling's port, unless somebody holds the same number."""
        with contextlib.suppress(FileExistsError):
            self.registry.maps.ports.put(key, 0, new=True)
            self._sibling_ports.append(key)

    def end_everything(self, hold: int) -> None:
        """End `hold`'s phase 2, if it is in it."""
        with self._lock:
            if self._entry.everything != hold:
                return
            self._store(self._entry._replace(everything=0))
            self.registry.drop_ports(self._sibling_ports)
            self.registry.drop_connections(self._sibling_connections)
            self._sibling_ports, self._sibling_connections = [], []

    def recover(self) -> None:
        """After a restart: end a phase 2 that nobody remembers, with all that was let through."""
        with self._lock:
            if self._entry.everything in self._live:
                return
            number, table = self.slot.number, self.registry.maps
            self._store(self._entry._replace(everything=0))
            ports = (key for key, hold in table.ports.items() if key.slot == number and not hold)
            conns = (key for key, hold in table.conns.items() if key.slot == number and not hold)
            self.registry.drop_ports(ports)
            self.registry.drop_connections(conns)
