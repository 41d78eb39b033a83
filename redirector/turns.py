"""One thing at a time for each pod, and pods beside each other."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator


class Turns:
    """A lock for every name that somebody holds or waits for; no others are kept."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._locks: dict[str, tuple[threading.Lock, int]] = {}

    @contextlib.contextmanager
    def of(self, name: str) -> Iterator[None]:
        """Wait for the turn of `name` and keep it for the context."""
        with self._lock:
            turn, waiting = self._locks.get(name, (threading.Lock(), 0))
            self._locks[name] = turn, waiting + 1
        try:
            with turn:
                yield
        finally:
            with self._lock:
                turn, waiting = self._locks[name]
                if waiting > 1:
                    self._locks[name] = turn, waiting - 1
                else:
                    del self._locks[name]

    def __len__(self) -> int:
        return len(self._locks)
