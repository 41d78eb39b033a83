"""What the files of an image were when it was committed, to be told from what a disk or somebody has made of them.

criu trusts its images: it would restore a flipped bit as it stands, or fail half-way in words for its developers. So
every wake compares first (measured: 0.1 ms). Files with facts are compared by content; pages, which may be gigabytes,
by size alone.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

_LARGE = 1 << 20  # bytes; what is larger holds contents of memory or of deleted files
_PAGES = "pages-"
_PIECE = 256 << 10


class Seal(NamedTuple):
    """One file: its size, and a digest of its content, "" if only the size is looked at."""

    size: int
    digest: str


def seals(directory: Path) -> dict[str, Seal]:
    """Return the seals of criu's images in a directory; its logs and statistics are still being written."""
    names = sorted(str(path.relative_to(directory)) for path in directory.rglob("*.img"))
    with _opened(directory) as fd:
        return {name: _seal(fd, name) for name in names}


def broken(directory: Path, wanted: Mapping[str, Seal]) -> str:
    """Say which files are not as they were; "" if all are."""
    with _opened(directory) as fd:
        return "; ".join(_differences(fd, wanted))


def _differences(fd: int, wanted: Mapping[str, Seal]) -> Iterator[str]:
    for name, seal in wanted.items():
        try:
            found = _seal(fd, name, weigh=not seal.digest)
        except OSError as error:
            yield f"{name} cannot be read ({os.strerror(error.errno or 0)})"
            continue
        if found.size != seal.size:
            yield f"{name} has {found.size} bytes and had {seal.size}"
        elif found.digest != seal.digest:
            yield f"{name} has another content"


@contextlib.contextmanager
def _opened(directory: Path) -> Iterator[int]:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


def _seal(directory: int, name: str, *, weigh: bool = False) -> Seal:
    """Look at one file; `weigh` it only."""
    if weigh or Path(name).name.startswith(_PAGES):
        return Seal(os.stat(name, dir_fd=directory, follow_symlinks=False).st_size, "")
    fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=directory)
    try:
        found = os.fstat(fd)
        if found.st_size > _LARGE or not stat.S_ISREG(found.st_mode):
            return Seal(found.st_size, "")
        data = b"".join(iter(functools.partial(os.read, fd, _PIECE), b""))
    finally:
        os.close(fd)
    return Seal(len(data), digest(data))


def digest(data: bytes) -> str:
    """Return what tells this content from any other."""
    return hashlib.blake2b(data, digest_size=16).hexdigest()
