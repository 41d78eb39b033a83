"""What is kept of failures for a look: images that could not be restored, and the ends of criu's logs.

Few, and not for long: an image is somebody's memory.
"""

from __future__ import annotations

import logging
import shutil
import time
from collections import Counter
from pathlib import Path

_log = logging.getLogger(__name__)

_MOST = {
    "image": 4,
    "log": 8,
}  # the newest; counted apart, or sleeps that fail would drive the images out
_SECONDS = 24 * 3600.0
_LOG_BYTES = 64 << 10  # tail of a log


class Failures:
    """A directory with one more for each failure, named after container and time."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def _place(self, container_id: str) -> Path:
        return self._directory / f"{container_id}~{time.time_ns()}"

    def take(self, container_id: str, image: Path) -> Path | None:
        """Move an image here; None if it is gone.

        Raises:
            OSError: it cannot be moved.
        """
        path = self._place(container_id)
        try:
            image.rename(path)
        except FileNotFoundError:
            return None
        self.bound()
        return path

    def keep_log(self, container_id: str, log: Path) -> Path | None:
        """Keep the tail of a log; return where, None if that is not possible."""
        directory = self._place(container_id)
        kept = directory / log.name
        try:
            data = log.read_bytes()[-_LOG_BYTES:]
            directory.mkdir(mode=0o700)
            kept.write_bytes(data)
        except OSError as error:
            _log.info("log.lost", extra={"log": str(log), "error": str(error)})
            return None
        self.bound()
        return kept

    def bound(self) -> None:
        """Remove what is old, or too much."""
        oldest = time.time_ns() - int(_SECONDS * 1e9)
        found: Counter[str] = Counter()
        for entry in sorted(self._directory.iterdir(), key=_stamp, reverse=True):
            kind = "image" if any(entry.glob("*.img")) else "log"
            found[kind] += 1
            if found[kind] > _MOST[kind] or _stamp(entry) < oldest:
                shutil.rmtree(entry, ignore_errors=True)


def _stamp(path: Path) -> int:
    stamp = path.name.rpartition("~")[2]
    return int(stamp) if stamp.isdigit() else 0
