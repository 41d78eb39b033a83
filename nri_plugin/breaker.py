"""A circuit breaker for containers that the supervisor may not agree with.

A container whose last life ended soon after it had started under the supervisor, and not with exit
code 0, starts plain the next time. If we were the cause, it now runs; if not, nothing is lost but
one life without sleep. Exit code 0 is that of a container which did what it was to do: an init
container, a job.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from nri_plugin.reasons import NONE, Reason

SHORT_LIFE = 10.0
"""Seconds; a container that lived longer has got on with the supervisor."""

MEMORY = 3600.0
"""Seconds that a short life is remembered; far more than kubelet's longest back-off, 5 min."""


class Breaker:
    """Remembers short lives by pod uid and container name, which restarts do not change."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._ended: dict[tuple[str, str], tuple[float, float]] = {}

    def life_ended(self, uid: str, name: str, *, seconds: float, supervised: bool) -> None:
        """Note the end of a life that lasted `seconds`, before it is known how."""
        now = self._clock()
        self._ended = {
            key: (when, lasted)
            for key, (when, lasted) in self._ended.items()
            if now - when < MEMORY and key != (uid, name)
        }
        if supervised and seconds < SHORT_LIFE:
            self._ended[uid, name] = (now, seconds)

    def forgive(self, uid: str, name: str, *, seconds: float) -> None:
        """Forget the life that lasted `seconds`: it ended well."""
        if self._ended.get((uid, name), (0.0, 0.0))[1] == seconds:
            del self._ended[uid, name]

    def reason(self, uid: str, name: str, *, lacks: str = "") -> Reason:
        """Return why the next life has to be plain, an empty reason if it need not.

        Args:
            uid: the pod.
            name: the container.
            lacks: what the life may have ended for want of, and how to get it, as a sentence.
        """
        when, lasted = self._ended.get((uid, name), (0.0, SHORT_LIFE))
        if lasted >= SHORT_LIFE or self._clock() - when >= MEMORY:
            return NONE
        return Reason(
            "short-life",
            f"its last life ended {lasted:.1f} s after the start under the supervisor, so this one"
            " runs without; see the log of the previous container"
            + (f". {lacks}" if lacks else ""),
        )

    def forget(self, uid: str) -> None:
        """Forget a pod that is gone."""
        self._ended = {key: value for key, value in self._ended.items() if key[0] != uid}
