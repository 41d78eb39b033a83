"""The bounded queue of one hold: frames in the order they came."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from redirector.frames import LATER, WHOLE, Claims, Frame
from redirector.settings import Settings

OVERHEAD = 400
"""Bytes that Python needs beside the frame itself: the parsed tuple, two addresses, two dict entries."""


class Queued(NamedTuple):
    """A frame as it was read, virtio header included, and what it is (None: not TCP or UDP)."""

    raw: bytes
    frame: Frame | None


def _identity(frame: Frame | None) -> tuple[object, ...] | None:
    """Return what a retransmission has in common with its original; None if there is no telling."""
    if frame is None or frame.proto != "tcp" or frame.kind != WHOLE:
        return None
    return frame.source, frame.target, frame.seq, frame.flags, frame.payload


class Backlog:
    """Frames waiting for their container, bounded in number and bytes."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._items: dict[int, Queued] = {}
        self._known: dict[tuple[object, ...], int] = {}
        self._syns: dict[int, None] = {}
        self._ignored: dict[int, None] = {}
        self._next = 0
        self.bytes = 0
        self.dropped = 0
        """Frames given up since the start: copies of queued ones, and those past the bound."""

    def __len__(self) -> int:
        return len(self._items)

    def __iter__(self) -> Iterator[Queued]:
        return iter(self._items.values())

    def add(self, item: Queued, *, ignored: bool = False) -> bool:
        """Queue a frame; False when it was dropped instead.

        TCP retransmits while we sleep; one copy is enough. When the queue is full new connections
        lose first: their SYN comes again, while a datagram or a segment may be all there is. What is
        `ignored` makes way for everything, and the oldest of it for the newest.
        """
        identity = _identity(item.frame)
        syn = item.frame is not None and item.frame.is_syn()
        known = identity is not None and identity in self._known
        if known or not self._make_room(item, ignored=ignored, syn=syn):
            self.dropped += 1
            return False
        number = self._next
        self._next += 1
        self._items[number] = item
        self.bytes += len(item.raw) + OVERHEAD
        if identity is not None:
            self._known[identity] = number
        if ignored:
            self._ignored[number] = None
        elif syn:
            self._syns[number] = None
        return True

    def _fits(self, item: Queued) -> bool:
        size = self.bytes + len(item.raw) + OVERHEAD
        return (
            len(self._items) < self._settings.queue_frames and size <= self._settings.queue_bytes
        )

    def _make_room(self, item: Queued, *, ignored: bool, syn: bool) -> bool:
        if ignored and len(self._ignored) >= self._settings.ignored_frames:
            self._give_up(next(iter(self._ignored)))
        while not self._fits(item):
            if self._ignored:
                self._give_up(next(iter(self._ignored)))
            elif self._syns and not (syn or ignored):
                self._give_up(next(reversed(self._syns)))
            else:
                return False
        return True

    def _give_up(self, number: int) -> None:
        self._remove(number)
        self.dropped += 1

    def _remove(self, number: int) -> Queued:
        item = self._items.pop(number)
        self.bytes -= len(item.raw) + OVERHEAD
        self._syns.pop(number, None)
        self._ignored.pop(number, None)
        identity = _identity(item.frame)
        if identity is not None:
            self._known.pop(identity, None)
        return item

    def take(self, wanted: Callable[[Queued], bool] = lambda _: True) -> list[Queued]:
        """Remove and return the frames that are `wanted`, in order."""
        numbers = [number for number, item in self._items.items() if wanted(item)]
        return [self._remove(number) for number in numbers]

    def take_strangers(self, claims: Claims) -> list[Queued]:
        """Remove and return, in order, the frames that `claims` does not hold.

        A later fragment goes where its first one goes; if that never came here it goes as well.
        """
        firsts = {
            item.frame.datagram()
            for item in self
            if item.frame and item.frame.kind not in (WHOLE, LATER) and claims.holds(item.frame)
        }

        def is_stranger(item: Queued) -> bool:
            if item.frame is None:
                return True
            if item.frame.kind == LATER:
                return item.frame.datagram() not in firsts
            return not claims.holds(item.frame)

        return self.take(is_stranger)
