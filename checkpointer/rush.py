"""Wakes whose clients are waiting come first; what nobody waits for gives way.

Twenty pods that wake at once share one interpreter: housekeeping of the first (cgroups, removing the image and the TAP,
some 10 ms of CPU) was measured to delay the first byte of the last.
"""

import threading
from typing import Self


class Rush:
    """Counts what is urgent; a context manager around it."""

    def __init__(self) -> None:
        self._urgent = 0
        self._changed = threading.Condition()

    def __enter__(self) -> Self:
        with self._changed:
            self._urgent += 1
        return self

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._urgent -= 1
            if not self._urgent:
                self._changed.notify_all()

    def give_way(self, patience: float) -> bool:
        """Wait until nothing is urgent, for at most `patience` seconds; False if something still is."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._urgent, patience)
