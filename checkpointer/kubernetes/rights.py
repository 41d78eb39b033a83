"""What is switched on, and what of it we may do: a right that is missing turns off what needs it, and nothing else."""

from __future__ import annotations

import dataclasses
import logging
import threading
import time

from checkpointer.kubernetes.errors import Denied

log = logging.getLogger(__name__)

AGAIN = 3600.0
"""Seconds until a denied right is tried again; somebody may have granted it."""


@dataclasses.dataclass(slots=True)
class _Off:
    reason: str
    until: float


class Feature:
    """One thing that can be switched on, and can be denied.

    Args:
        name: As its flag and the manifests' component have it, such as "status-labels".
        role: The ClusterRole that has its rights.
        wanted: Whether its flag is set.
    """

    def __init__(self, name: str, role: str, *, wanted: bool) -> None:
        self.name = name
        self.role = role
        self.wanted = wanted
        self._lock = threading.Lock()
        self._off: _Off | None = None

    def on(self) -> bool:
        """Whether it is to be done now."""
        with self._lock:
            if self._off is not None and time.monotonic() >= self._off.until:
                self._off = None
            return self.wanted and self._off is None

    @property
    def reason(self) -> str:
        """Why it is off although it is wanted; "" if it is not."""
        with self._lock:
            return self._off.reason if self._off is not None and self.wanted else ""

    def deny(self, error: Denied) -> None:
        """A right is missing: off for an hour, said once."""
        self.switch_off(
            f"it may not {error.verb} {error.resource}: grant that in ClusterRole {self.role} (apply the manifests' "
            f"component {self.name} again); the server said: {error.message}"
        )

    def allow(self) -> None:
        """It has turned out to be allowed."""
        with self._lock:
            self._off = None

    def switch_off(self, reason: str) -> None:
        """Off for an hour, for a reason that a person has to mend."""
        with self._lock:
            said = self._off is not None
            self._off = _Off(reason, time.monotonic() + AGAIN)
        if not said:
            log.error("feature.off", extra={"feature": self.name, "reason": reason})
