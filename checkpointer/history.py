"""What happened to the node's containers lately, for those who watch."""

import asyncio
from collections import deque
from typing import Any

from checkpointer import api

KEPT = 1000
"""Transitions; a watcher that falls further behind misses some."""

LONG_POLL = 20.0
"""Seconds that a watcher waits before it is told that there is nothing."""


class History:
    """Transitions by their sequence number."""

    def __init__(self) -> None:
        self._kept: deque[Any] = deque(maxlen=KEPT)
        self._last = 0
        self._news = asyncio.Event()

    @property
    def last(self) -> int:
        """The sequence number of the latest transition."""
        return self._last

    def add(self, info: Any, before: str, time: float) -> None:
        """Note what became of a container.

        Args:
            info: Its Info message, after.
            before: Its state before.
            time: Epoch seconds.
        """
        self._last += 1
        transition = api.m.Transition(sequence=self._last, time=time, info=info, before=before)
        self._kept.append(transition)
        self._news.set()
        self._news = asyncio.Event()

    async def after(self, sequence: int) -> tuple[list[Any], int]:
        """Transitions after a sequence number, waiting a while for the first; none after one that is yet to come."""
        if sequence > self._last:
            return [], self._last  # the way to ask where to begin
        if sequence == self._last:
            try:
                async with asyncio.timeout(LONG_POLL):
                    await self._news.wait()
            except TimeoutError:
                pass
        return [told for told in self._kept if told.sequence > sequence], self._last
