"""One container's hold: which frames wait, and how they come back in the order they came."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType

from bpf import maps
from bpf.maps import HoldEntry, StreamEntry
from redirector import frames, links
from redirector.backlog import Backlog, Queued
from redirector.endpoints import Connection, Others, Port, ReplayResult, Stream, Wake
from redirector.frames import LATER, Address, Claims, Frame
from redirector.podstate import PodState
from redirector.prober import Prober
from redirector.raw import Raw
from redirector.settings import Settings
from redirector.tap import Tap

log = logging.getLogger(__name__)

_READ_AT_ONCE = 512
"""Frames per call of `receive` (some 5 ms), so that a flood does not keep its caller for ever."""

_PATIENCE = 0.001
"""Seconds that `receive` waits for other work on the hold: its caller is an event loop."""

_BUSY = 1.0
"""Seconds after which `keep_alive` is worth another try when something else works on the hold."""

_SILENCE = 0.001
"""Seconds after which a frame that was redirected and never arrived at an empty TAP is lost."""

_DELIVERY = 0.002
"""Seconds to wait for a written frame to pass the interface's filter. It nearly always has when
write(2) returns: the kernel runs the receive path before it goes back to user space."""

_UNKNOWN: Mapping[Connection, Stream] = MappingProxyType({})


def _ends(connection: Connection) -> tuple[Address, Address]:
    local = Address(maps.pack_address(connection.local_ip), connection.local_port)
    return local, Address(maps.pack_address(connection.remote_ip), connection.remote_port)


class Hold:
    """Frames of one container, from before its freeze until after its restore.

    Phases: `syns`, `everything`, `only` (asleep), `replay`, `close`; each may follow any other, and
    `replay` from any phase gives everything back. All methods may be called from any thread.
    """

    def __init__(
        self,
        container_id: str,
        number: int,
        tap: Tap,
        state: PodState,
        *,
        raw: Raw,
        settings: Settings,
        responder: int = 0,
        on_close: Callable[[Hold, bool], None],
    ) -> None:
        self.container_id = container_id
        self.number = number
        self._tap = tap
        self._prober = Prober(raw, self._heard)
        self._state = state
        self._maps = state.registry.maps
        self._settings = settings
        self._responder = responder
        self._on_close = on_close
        self._lock = threading.RLock()
        self._backlog = Backlog(settings)
        self._claims = Claims(ignored=state.ignored)
        self._quiet: frozenset[Port] = frozenset()
        self._ports: frozenset[Port] = frozenset()
        self._connections: frozenset[Connection] = frozenset()
        self._mode = maps.MODE_OFF
        self._wake: Wake | None = None
        self._written = 0
        self._lost = 0
        self._unseen = 0
        self._answers_before = self._answers()

    @property
    def fd(self) -> int:
        """The TAP: readable when there is something to `receive`; -1 once closed."""
        return self._tap.fd

    @property
    def queued(self) -> int:
        """Frames waiting in user space."""
        return len(self._backlog)

    @property
    def dropped(self) -> int:
        """Frames given up so far: copies, those past the bounds, those the TAP had no room for."""
        return self._backlog.dropped + self._lost

    @property
    def answered(self) -> int:
        """Keepalives and the like that were answered in the application's place, but those that an earlier process counted."""
        return self._answers() - self._answers_before

    def _answers(self) -> int:
        counts = self._maps.counts.get(self.number)
        return counts.answered if counts else 0

    # -- what is held -----------------------------------------------------------------------------

    def syns(self, ports: Iterable[Port]) -> None:
        """Phase 1: hold new TCP connections to `ports`; everything else passes."""
        with self._lock:
            self._claim(frozenset(ports), frozenset(), {})
            self._set_mode(maps.MODE_SYNS)

    def everything(self, others: Others) -> None:
        """Phase 2: hold all TCP and UDP of the pod but what is `others`'.

        Raises:
            BusyError: another container of the pod is in phase 2.
        """
        with self._lock:
            self._state.begin_everything(self.number, others)
            self._set_mode(maps.MODE_EVERYTHING)

    def only(
        self,
        ports: Iterable[Port],
        connections: Iterable[Connection],
        quiet: Iterable[Port] = (),
        streams: Mapping[Connection, Stream] = _UNKNOWN,
        *,
        live: bool = False,
    ) -> None:
        """Asleep: hold these, and give back at once what was caught beyond them in phase 2.

        The next `receive` tells whether a reason to wake is among what is kept. What comes to `quiet`
        ports is none. Connections of which `streams` says how they stand are kept alive from now on:
        their peers' keepalives are answered, and `keep_alive` sends the application's. Where the
        sockets are still there (`live`) the kernel does both, and of connections only what brings
        the application something is held.
        """
        with self._lock:
            self._quiet = frozenset(quiet)
            self._claim(frozenset(ports), frozenset(connections), streams)
            self._set_mode(maps.MODE_LIVE if live else maps.MODE_SET)
            self._state.end_everything(self.number)
            while self._read() == _READ_AT_ONCE:
                continue
            self._write(self._backlog.take_strangers(self._claims))
            wakes = (self._claims.wake(item.frame) for item in self._backlog if item.frame)
            self._wake = next((wake for wake in wakes if wake), None)

    def _claim(
        self,
        ports: frozenset[Port],
        connections: frozenset[Connection],
        streams: Mapping[Connection, Stream],
    ) -> None:
        """Enter what this hold claims into the maps, new entries first."""
        former = self._ports, self._connections
        # Before the first one is entered: a map may be full, and what was entered by then must go again.
        self._ports, self._connections = former[0] | ports, former[1] | connections
        for port in ports:
            self._maps.ports.put(self._state.port_key(port), self.number)
        for connection in connections:
            key = self._state.connection_key(connection)
            self._maps.conns.put(key, self.number)
            if stream := streams.get(connection):
                self._maps.streams.put(
                    key, StreamEntry(*stream[1:6], settled=stream.snd_una == stream.snd_nxt)
                )
        self._unclaim(former[0] - ports, former[1] - connections)
        self._ports, self._connections = ports, connections
        known = {_ends(ends): streams.get(ends) for ends in connections}
        self._claims = Claims(ports, known, self._quiet, self._state.ignored)
        self._prober.begin({_ends(ends): (ends, stream) for ends, stream in streams.items()})

    def _unclaim(self, ports: frozenset[Port], connections: frozenset[Connection]) -> None:
        registry = self._state.registry
        registry.drop_ports(map(self._state.port_key, ports))
        registry.drop_connections(map(self._state.connection_key, connections))

    def _set_mode(self, mode: int) -> None:
        """Arm or disarm: one map update."""
        slot = self._state.slot.number
        entry = HoldEntry(self._tap.ifindex, mode, self._accounted, slot, self._responder)
        self._maps.holds.put(self.number, entry)
        self._mode = mode

    @property
    def responder(self) -> int:
        """The port of the listener that answers the kubelet, 0 if it is not."""
        return self._responder

    def answered_at(self, responder: int) -> None:
        """Have the kubelet answered by the listener on another port, by nobody with 0."""
        with self._lock:
            if responder != self._responder and self._tap.fd >= 0:
                self._responder = responder
                self._set_mode(self._mode)

    @property
    def _accounted(self) -> int:
        """Redirected frames that no longer wait anywhere."""
        return self._written + self._backlog.dropped + self._lost

    def rearm(
        self,
        ports: Iterable[Port],
        connections: Iterable[Connection],
        quiet: Iterable[Port] = (),
        streams: Mapping[Connection, Stream] = _UNKNOWN,
    ) -> None:
        """Take over from a process that died: hold as `only` does, then count from here.

        Frames redirected to the dead TAP are counted in the map but will never come.
        """
        with self._lock:
            self._quiet = frozenset(quiet)
            self._claim(frozenset(ports), frozenset(connections), streams)
            self._set_mode(maps.MODE_SET)
            time.sleep(_SILENCE)
            redirected = self._redirected()
            self._read()
            self._lost = max(redirected - self._accounted - len(self._backlog), 0)

    # -- what was caught --------------------------------------------------------------------------

    def receive(self) -> Wake | None:
        """Queue what the TAP has; return the first reason to wake seen since the last call.

        Under a flood some frames may be left: the TAP stays readable then. A replay on another
        thread reads for itself, and this returns without having waited for it.
        """
        if not self._lock.acquire(timeout=_PATIENCE):
            return None
        try:
            self._read(release=self._mode in (maps.MODE_SET, maps.MODE_LIVE))
            wake, self._wake = self._wake, None
            return wake
        finally:
            self._lock.release()

    def awaited(self) -> frozenset[Port]:
        """Return the ports for which something waits that wants an answer."""
        with self._lock:
            wakes = (self._claims.wake(item.frame) for item in self._backlog if item.frame)
            return frozenset(wake.port for wake in wakes if wake)

    def _read(self, *, release: bool = False) -> int:
        """Queue frames of the TAP, `_READ_AT_ONCE` at most; return how many there were.

        With `release`, a sibling's frame that was on its way here while phase 2 ended goes back.
        """
        for count in range(_READ_AT_ONCE):
            raw = self._tap.read() if self._tap.fd >= 0 else None
            if raw is None:
                return count
            item = Queued(raw, frames.parse(raw[links.VNET_HEADER :]))
            self._prober.note(item.frame)
            if release and self._is_strange(item.frame):
                self._write([item])
                continue
            if self._wake is None and item.frame is not None:
                self._wake = self._claims.wake(item.frame)
            self._backlog.add(item, ignored=bool(item.frame and self._claims.ignores(item.frame)))
        return _READ_AT_ONCE

    def _is_strange(self, frame: Frame | None) -> bool:
        return frame is not None and frame.kind != LATER and not self._claims.holds(frame)

    # -- keeping connections alive ------------------------------------------------------------------

    def keep_alive(self) -> float | None:
        """Send the keepalives that are due; return the seconds until it is worth calling again, None for never.

        For a container that sleeps: its sockets did this, at intervals that the application has chosen.
        The programs take note of a peer's answer, unless that is a reset: the restored socket gets it.
        """
        if not self._lock.acquire(timeout=_PATIENCE):
            return _BUSY
        try:
            return self._prober.send(time.monotonic()) if self._mode == maps.MODE_SET else None
        finally:
            self._lock.release()

    def _heard(self, connection: Connection) -> float:
        """When the programs last heard of a peer what is not held: seconds of CLOCK_MONOTONIC, 0 for never."""
        entry = self._maps.streams.get(self._state.connection_key(connection))
        return entry.heard / 1e9 if entry else 0.0

    # -- how it comes back ------------------------------------------------------------------------

    def replay(self) -> ReplayResult:
        """Give everything back in exact order, then hold nothing.

        New frames queue behind the old ones until there are none left; from then on they pass by
        themselves. If they come so fast that the queue does not shrink for `drain_seconds`, they
        pass the last old ones.
        """
        with self._lock:
            start, before = time.perf_counter(), self._written
            scope = self._mode & maps.MODE_SCOPE
            if scope and not self._drain(scope | maps.MODE_DRAIN):
                log.warning(
                    "replay.overtaken", extra={"id": self.container_id, "queued": self.queued}
                )
            self._drain(maps.MODE_OFF)  # a frame may have been on its way to the TAP
            self._state.end_everything(self.number)
            self._wake = None
            ms = (time.perf_counter() - start) * 1e3
            return ReplayResult(self._written - before, self.dropped, ms)

    def refuse(self) -> ReplayResult:
        """The container has ended: reset the connections that have no socket, and let the kernel refuse what waits."""
        with self._lock:
            if self._mode & maps.MODE_SCOPE == maps.MODE_SET:
                self._prober.hang_up()
            return self.replay()

    def _drain(self, mode: int) -> bool:
        """Replay in `mode` until every redirected frame is accounted for; False when it never ends.

        The programs compare their count with the one published here, so the very frame after the
        last old one passes, without a moment in which one could overtake.
        """
        least, deadline, silent_since = float("inf"), 0.0, 0.0
        while True:
            self._set_mode(mode)
            missing = self._redirected() - self._accounted
            now = time.monotonic()
            if missing <= 0 and not self._backlog:
                return True
            if missing < least:
                least, deadline = missing, now + self._settings.drain_seconds
            elif now > deadline:
                return False
            self._read()
            queued = self._backlog.take()
            self._write(queued)
            if queued:
                silent_since = 0.0
            elif not silent_since:
                silent_since = now
            elif now - silent_since > _SILENCE:
                self._lost += missing

    def _redirected(self) -> int:
        counts = self._maps.counts.get(self.number)
        return counts.redirected if counts else 0

    def _write(self, queued: list[Queued]) -> None:
        """Give frames back, and see that they have passed the interface's filter."""
        if not queued:
            return
        for item in queued:
            if self._tap.write(item.raw):
                self._written += 1
            else:
                self._lost += 1
        deadline = time.monotonic() + _DELIVERY
        while (behind := self._behind()) > 0:
            if time.monotonic() > deadline:
                self._unseen += behind
                return

    def _behind(self) -> int:
        counts = self._maps.counts.get(self.number)
        return self._written - self._unseen - (counts.replayed if counts else self._written)

    def discard(self) -> None:
        """Remove the TAP alone: another object has taken over what the maps hold."""
        with self._lock:
            self._tap.close()
            self._prober.close()

    def close(self) -> None:
        """Hold nothing any more, forget every entry and remove the TAP (some 10 ms); idempotent."""
        with self._lock:
            if self._tap.fd < 0:
                return
            self._set_mode(maps.MODE_OFF)
            last = self._state.leave(self.number)
            self._unclaim(self._ports, self._connections)
            self._maps.hold_names.drop(self.number)
            self._tap.close()
            self._prober.close()
        self._on_close(self, last)
