"""Getting an image to the disk while there is other work to do.

The commit, for which an application stands still, waits for less then. This only begins: whether a file is on the disk, and
whether the disk takes it, fsync(2) says at the commit.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Self

from bpf import syscall

_EVERY = 0.005  # seconds; memory comes at some 10 MB in that
_PAGES = "pages-"


def files(directory: Path) -> Iterator[str]:
    """Iterate over the paths of all regular files below a directory."""
    with os.scandir(directory) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                yield from files(Path(entry.path))
            elif entry.is_file(follow_symlinks=False):
                yield entry.path


def begin(directory: Path, *, memory: bool = False) -> None:
    """Have the disk begin with what is in a directory's files, or only in those with memory."""
    for path in files(directory):
        if not memory or path.rpartition("/")[2].startswith(_PAGES):
            _begin(path)


def _begin(path: str) -> None:
    # What cannot be begun with is left to fsync, which finds the same and can say so.
    with contextlib.suppress(OSError):
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            syscall.sync_file_range(fd, syscall.SYNC_FILE_RANGE_WRITE)
        finally:
            os.close(fd)


class Meanwhile:
    """Writes the memory in a directory out while it comes in, until it is left.

    Nobody waits for its thread: a disk that does not go on blocks it.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._over = threading.Event()

    def __enter__(self) -> Self:
        threading.Thread(target=self._work, name="writeback", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()

    def end(self) -> None:
        """Begin with what has come in since the last look, and then with nothing more."""
        self._over.set()
        self._begin()

    def _begin(self) -> None:
        with contextlib.suppress(OSError):  # the directory has gone
            begin(self._directory, memory=True)

    def _work(self) -> None:
        while not self._over.wait(_EVERY):
            self._begin()
