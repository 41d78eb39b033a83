"""Numbers of the datapath, each with its reason."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Settings:
    """Bounds of one hold; a field's unit is in its name or its docstring."""

    queue_frames: int = 16384
    """Frames kept for one container. Past it new connections are dropped first: a SYN comes again."""

    queue_bytes: int = 16 << 20
    """Bytes kept for one container, the bookkeeping of each frame included."""

    ignored_frames: int = 16
    """Of these, frames of ignored peers, the newest: what one or two scrapers are waiting for at the moment. Those
    before it were given up by their senders, who come again."""

    tap_frames: int = 4096
    """Frames that wait in the TAP while the daemon is busy; 8 bytes each, reserved by the kernel."""

    drain_seconds: float = 2.0
    """How long a replay goes on while new frames come faster than old ones are given back (some 200,000
    a second); then the new ones pass the last old ones."""

    quarantine_seconds: float = 10.0
    """After filters of an incompatible older build are replaced, segments without a socket are dropped
    this long: time for the daemon to adopt its sleeping containers, so that nobody gets a reset."""
