"""How long the phases of one operation took."""

from __future__ import annotations

import time


class Clock:
    """Milliseconds between marks, from its creation on."""

    def __init__(self) -> None:
        self._start = self._last = time.perf_counter()
        self._phases: dict[str, float] = {}

    def phase(self, name: str) -> None:
        """End the phase `name`."""
        now = time.perf_counter()
        self._phases[name] = self._phases.get(name, 0.0) + 1e3 * (now - self._last)
        self._last = now

    def phases(self) -> dict[str, float]:
        """Return all phases so far and their sum as "total"."""
        return {**self._phases, "total": 1e3 * (self._last - self._start)}
