"""Keepalives of ours for a sleeping container's connections, from its pod at the application's intervals; resets if it ends."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from redirector import segments
from redirector.endpoints import Connection, Stream
from redirector.frames import RST, Address, Frame
from redirector.keepalives import Keepalives
from redirector.raw import Raw

_AT_ONCE = 64
"""Keepalives per call of `send` (some 3 ms)."""

_PAUSE = 0.005
"""Seconds between two such calls at least."""

Ends = tuple[Address, Address]
"""Local and remote, as a frame from the peer has them for target and source."""


class Prober:
    """Those of one hold, which calls it under its lock.

    Args:
        raw: The way out of the pod.
        heard: Tells when the programs last heard of a peer what is not held; monotonic seconds.
    """

    def __init__(self, raw: Raw, heard: Callable[[Connection], float]) -> None:
        self._raw = raw
        self._heard = heard
        self._streams: Mapping[Ends, tuple[Connection, Stream]] = {}
        self._keepalives: Keepalives[Ends] | None = None

    def begin(self, streams: Mapping[Ends, tuple[Connection, Stream]]) -> None:
        """Take over these connections, and no others."""
        self._streams = streams
        self._keepalives = None

    def send(self, now: float) -> float | None:
        """Send what is due; return the seconds until it is worth calling again, None for never."""
        if self._keepalives is None:
            every = self._streams.items()
            wishes = {ends: stream.keepalive for ends, (_, stream) in every if stream.keepalive}
            self._keepalives = Keepalives(wishes, now)
        due = self._keepalives.due(now, _AT_ONCE, lambda ends: self._heard(self._streams[ends][0]))
        for ends in due:
            connection, stream = self._streams[ends]
            target = segments.addresses(connection)[1]
            self._raw.send(segments.keepalive(connection, stream), target)
        following = self._keepalives.next()
        return None if following is None else max(following - now, _PAUSE)

    def hang_up(self) -> None:
        """Reset all connections: no socket of theirs comes back."""
        for connection, stream in self._streams.values():
            target = segments.addresses(connection)[1]
            for packet in segments.resets(connection, stream):
                self._raw.send(packet, target)
        self.begin({})

    def note(self, frame: Frame | None) -> None:
        """Note a peer's sign of life, or of death."""
        if self._keepalives is None or frame is None:
            return
        ends = frame.target, frame.source
        if frame.flags & RST:
            self._keepalives.end(ends)
        elif ends in self._keepalives:
            self._keepalives.heard(ends, time.monotonic())

    def close(self) -> None:
        """Close the way out."""
        self._raw.close()
