"""The daemon's API without the cost of starting the command line for each call."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from checkpointer import api
from ttrpc import blocking

IMAGES = Path("/var/lib/zeropod/images")


class Daemon:
    """One connection."""

    def __init__(self, socket: str = "/run/zeropod/zeropod.sock") -> None:
        self._client = blocking.Client(socket, timeout=120)

    def info(self, pod: str) -> Any:
        """What it knows of the only container of `namespace/pod`."""
        return self._call("List", pod)

    def sleep(self, pod: str) -> Any:
        """Put it to sleep; its Info afterwards."""
        return self._call("Sleep", pod)

    def wake(self, pod: str) -> Any:
        """Wake it; its Info afterwards."""
        return self._call("Wake", pod)

    def _call(self, method: str, pod: str) -> Any:
        namespace, _, name = pod.partition("/")
        query = api.m.Query(namespace=namespace, pod=name)
        return self._client.call(api.SERVICE, method, query, api.m.Infos).containers[0]


def forget_pages(container_id: str) -> None:
    """Drop an image from the page cache; it was synced when it was committed (posix_fadvise(2))."""
    for path in (IMAGES / container_id).iterdir():
        if path.is_file():
            fd = os.open(path, os.O_RDONLY)
            try:
                os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(fd)
