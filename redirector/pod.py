"""One pod: our filters on the links of its network namespace, the holds of its containers, and what it is asked.

Its calls block for milliseconds and belong on worker threads.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import TypeVar

from bpf.maps import CallKey, Iface
from redirector import clocks, filters, links, loopback, netns
from redirector.answering import Answering
from redirector.endpoints import Activity, Connection, Port, Stream
from redirector.errors import AttachError
from redirector.filters import Direction
from redirector.hold import Hold
from redirector.ignored import Ignored
from redirector.podstate import PodState
from redirector.probes import Rules
from redirector.programs import Programs
from redirector.raw import Raw
from redirector.registry import Loopback
from redirector.settings import Settings
from redirector.tap import Tap

T = TypeVar("T")

log = logging.getLogger(__name__)


class Pod:
    """A pod's network namespace with our filters on its links."""

    def __init__(
        self,
        state: PodState,
        programs: Programs,
        settings: Settings,
        answering: Answering | None = None,
    ) -> None:
        self._state = state
        self._programs = programs
        self._settings = settings
        self._answering = answering
        self._lock = threading.RLock()
        self._heir = False  # of a layout that we cannot read
        self._holds: dict[str, Hold] = {}
        self.pid = 0

    @property
    def sandbox_id(self) -> str:
        """The pod's sandbox, as given to `Datapath.attach`."""
        return self._state.slot.sandbox_id

    @property
    def holds(self) -> bool:
        """Whether something is held for any of its containers."""
        return bool(self._holds)

    def refresh(self, pid: int) -> None:
        """Attach to every link there is now; `pid` is any process in the namespace.

        Raises:
            OSError: the process is gone.
            AttachError: a filter was refused.
        """
        with self._lock:
            netns.run(pid, self._attach, inode=self._state.slot.netns)
            self.pid = pid

    def _inside(self, function: Callable[[], T]) -> T:
        return netns.run(self.pid, function, inode=self._state.slot.netns)

    def _attach(self) -> None:
        found = links.found()
        ethernet = [link for link in found if not link.is_loopback]
        self._state.set_links(tuple(Iface(link.ifindex, link.mac) for link in ethernet))
        slot = self._state.slot.number
        with filters.netlink() as route:
            for link in found:
                filters.add_clsact(route, link.ifindex)
                wanted: dict[Direction, str] = {"ingress": "eth_in", "egress": "eth_out"}
                if link.is_loopback:
                    wanted = {"ingress": "lo_in"}
                for direction, program in wanted.items():
                    if self._programs.is_foreign(filters.ours(route, link.ifindex, direction)):
                        self._quarantine()
                    filters.put(
                        route, link.ifindex, direction, self._programs.filter(program, slot)
                    )

    def _quarantine(self) -> None:
        """The old maps held something perhaps, and ours know nothing of it until it is adopted."""
        self._heir = True
        self._state.set_quarantine(
            time.monotonic_ns() + int(self._settings.quarantine_seconds * 1e9)
        )

    def detach(self) -> None:
        """Remove our filters from every link; what was clsact before stays."""

        def inside() -> None:
            with filters.netlink() as route:
                for link in links.found():
                    filters.remove(route, link.ifindex, "ingress")
                    if not link.is_loopback:
                        filters.remove(route, link.ifindex, "egress")

        self._inside(inside)

    def activity(self, ports: Iterable[Port], kept: Iterable[Port] = ()) -> dict[Port, Activity]:
        """Return when each port last saw payload, in either direction; see `clocks.read`."""
        return clocks.read(self._state, ports, kept)

    def callers(self, ports: Iterable[Port]) -> set[Port]:
        """Return those of these ports that the kernel may have chosen, and from which the pod sent before anything came."""
        low, high = self._inside(links.ephemeral)
        chosen = (port for port in ports if low <= port.number <= high)
        return clocks.callers(self._state, chosen)

    def talks(self, connections: Iterable[Connection]) -> dict[Connection, Activity]:
        """Return when each TCP connection last saw payload that was no ping, where the pod has seen pings at all.

        Connections without a ping, and without any payload since their pod's first one, are left out.
        """
        tables = self._state.registry.maps
        if not self.pinged():
            return {}
        found = ((one, tables.talks.get(self._state.connection_key(one))) for one in connections)
        born = (
            self._state.born
        )  # a clock that stopped before was another pod's with the same address
        return {one: Activity(*times) for one, times in found if times and max(times) >= born}

    def pinged(self) -> int:
        """Return when the pod was last pinged, ns of CLOCK_MONOTONIC; 1 if it has only pinged others, 0 for never."""
        return self._state.registry.maps.pinged.get(self._state.slot.number) or 0

    @property
    def ignored(self) -> Ignored:
        """Whose traffic is neither activity nor a wake."""
        return self._state.ignored

    def ignore(self, ignored: Ignored) -> None:
        """Say whose traffic is neither activity nor a wake, from now on; holds that exist learn it at their next phase."""
        with self._lock:
            self._state.ignore(ignored)

    def tell_calls(self, tell: bool) -> None:
        """Say whether the kubelet's connections are no activity, from now on."""
        with self._lock:
            self._state.tell_calls(tell)

    def calls(self, connections: Iterable[Connection]) -> frozenset[Connection]:
        """Return those of these connections that the kubelet has opened, if they are told from others here."""
        if not self._state.tells_calls:
            return frozenset()
        table = self._state.registry.maps.calls
        return frozenset(
            one for one in connections if table.get(CallKey(*one[2:], *one[:2])) is not None
        )

    def hold(self, container_id: str, pid: int = 0) -> Hold:
        """Make the container's hold: a TAP that is up, nothing held yet.

        Args:
            container_id: whose frames it will hold.
            pid: a process in the namespace that is alive for certain; 0: the one of the last `refresh`, which may
                have been of a sibling that has ended since.

        Raises:
            OSError: the pod is gone.
            AttachError: a filter was refused.
            FullError: there are too many holds on this node.
        """
        with self._lock:
            previous = self._holds.pop(container_id, None)
            if previous is not None:
                previous.close()
            self.abandon(container_id)
            self.refresh(pid or self.pid)
            self._open_loopback()
            return self._make(container_id)

    def adopt(
        self,
        container_id: str,
        ports: Iterable[Port],
        connections: Iterable[Connection],
        quiet: Iterable[Port] = (),
        streams: Mapping[Connection, Stream] = MappingProxyType({}),
    ) -> Hold:
        """Make the hold of a container that was put to sleep by a process that is gone.

        What the maps hold stays held throughout; the arguments come from its image, see `Hold.only`.
        """
        with self._lock:
            self._state.recover()
            self._open_loopback(heir=self._heir)
            former = self._holds.get(container_id)
            hold = self._make(container_id)
            if former is not None:
                former.discard()  # an adoption that failed half-way, tried again
            hold.rearm(ports, connections, quiet, streams)
            return hold

    def abandon(self, container_id: str) -> None:
        """Let pass what the maps still hold for a container that is awake after a restart of ours."""
        registry, slot = self._state.registry, self._state.slot
        with self._lock:
            number = registry.hold_ids(slot.number).get(container_id)
            if number is None or container_id in self._holds:
                return
            self._state.recover()
            registry.drop_hold(number)
            if self._state.leave(number):
                self._close_loopback()

    def drop(self, container_id: str) -> None:
        """Let pass what is held for a container that has ended, by a hold of this process or before it."""
        with self._lock:
            hold = self._holds.get(container_id)
            if hold is not None:
                hold.close()
            self.abandon(container_id)

    def _responder(self) -> int:
        """The port of the listener that answers the kubelet, 0 if it is not."""
        if self._answering is None or not self._state.tells_calls:
            return 0
        return self._answering.listen(self.sandbox_id, self._inside, self._held_ports)

    def _held_ports(self) -> set[int]:
        """TCP ports whose owners sleep."""
        slot, table = self._state.slot.number, self._state.registry.maps.ports
        return {key.port for key, _ in table.items() if (key.slot, key.proto) == (slot, "tcp")}

    def answer(self, rules: Mapping[int, Rules]) -> None:
        """Say what the kubelet is told on these TCP ports while they are held."""
        if self._answering is not None and self._state.tells_calls:
            self._answering.tell(self.sandbox_id, rules)

    def answer_again(self) -> None:
        """Have a new responder answer where something is held."""
        with self._lock:
            holds = list(self._holds.values())
            responder = self._responder() if holds else 0
        for hold in holds:
            hold.answered_at(responder)

    def _make(self, container_id: str) -> Hold:
        responder = self._responder()
        number = self._state.registry.hold_id(self._state.slot.number, container_id)
        ingress = self._programs.filter("tap_in", number)
        egress = self._programs.filter("tap_out", number)
        tap, raw = self._inside(lambda: (Tap.make(ingress, egress, self._settings), Raw()))
        hold = Hold(
            container_id,
            number,
            tap,
            self._state,
            raw=raw,
            settings=self._settings,
            responder=responder,
            on_close=self._closed,
        )
        self._state.enter(number)
        self._holds[container_id] = hold
        return hold

    def _closed(self, hold: Hold, last: bool) -> None:
        with self._lock:
            if self._holds.get(hold.container_id) is hold:
                del self._holds[hold.container_id]
            # The next one may have been made since, while this one's device was being taken down.
            if last and not self._holds:
                self._close_loopback()
                if self._answering is not None:
                    self._answering.leave(self.sandbox_id)

    def _open_loopback(self, *, heir: bool = False) -> None:
        if not self._state.slot.loopback.saved:
            self._state.remember(self._inside(lambda: loopback.opened(heir=heir)))

    def _close_loopback(self) -> None:
        saved = self._state.slot.loopback
        if not saved.saved:
            return
        try:
            self._inside(lambda: loopback.restore(saved))
        except OSError as error:
            log.debug("lo of pod %s is gone: %s", self.sandbox_id, error)
        self._state.remember(Loopback())

    def close(self) -> None:
        """Close every hold, and detach if the namespace still is the pod's."""
        with self._lock:
            for hold in list(self._holds.values()):
                hold.close()
            try:
                self.detach()
            except (OSError, AttachError) as error:
                log.debug("namespace of pod %s is gone: %s", self.sandbox_id, error)
            self._state.retire()
