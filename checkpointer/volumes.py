"""Files of an image that others may change while it sleeps: those on volumes.

criu opens every file again by its path and fails if it is not what it was. On the container's own root nobody can
change it, for the supervisor is alone there and an exec waits for the wake. On a volume the kubelet, another container
or another node may have.
"""

from __future__ import annotations

import contextlib
import os
import stat
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bpf import syscall
from checkpointer import held, refusals
from checkpointer.errors import ImageError, Refused

_LENGTH = struct.Struct("<I")


def settle(directory: Path, pid: int) -> None:
    """Make a finished image, whose application still exists, bear what may happen to its files.

    The size of a file on a volume is forgotten: an application that is awake would not mind either that a log or
    database grows. What cannot be borne is refused.

    Args:
        directory: The image.
        pid: A process of the application.

    Raises:
        Refused: it has a file open, mapped or watched that the kubelet will replace.
        ImageError: files.img cannot be read or written.
    """
    path = directory / "files.img"
    points = mount_points(Path(f"/proc/{pid}/mountinfo").read_text(errors="replace"))
    try:
        data = path.read_bytes()
        changed = rewritten(data, points)
        if changed != data:
            path.write_bytes(changed)
    except OSError as error:
        raise ImageError(f"the files in the image cannot be read or written: {error}") from error


def mend(directory: Path, pid: int) -> list[str]:
    """Make those files of an image again that are gone and were only written to, such as logs that were rotated.

    What was in them is no concern of an application that cannot read them. A file that it can read is not replaced.

    Args:
        directory: The image.
        pid: A process of the container.

    Returns:
        What was made, empty.

    Raises:
        ImageError: files.img cannot be read.
        OSError: the container is gone, or a file cannot be made.
    """
    points = mount_points(Path(f"/proc/{pid}/mountinfo").read_text(errors="replace"))
    root = os.open(f"/proc/{pid}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return make_again((directory / "files.img").read_bytes(), root, points)
    finally:
        os.close(root)


def make_again(data: bytes, root: int, points: tuple[str, ...]) -> list[str]:
    """Do what `mend` does.

    Args:
        data: A files.img.
        root: Descriptor of the container's root.
        points: Where anything is mounted below it.
    """
    made = []
    for _, entry in held.entries(data):
        if not entry.HasField("reg") or not _on(entry.reg.name, points):
            continue
        mode = entry.reg.mode
        if entry.reg.flags & os.O_ACCMODE == os.O_WRONLY and stat.S_ISREG(mode):
            # Its new owner need not be the one that gave these bits, and may be root.
            if mode & (stat.S_ISUID | stat.S_ISGID):
                continue
            with contextlib.suppress(FileExistsError):
                _create(root, entry.reg.name, stat.S_IMODE(mode))
                made.append(entry.reg.name)
    return made


def _create(root: int, path: str, mode: int) -> None:
    """Create a file that the owner of its folder owns; no link in its path is followed, they are a container's."""
    resolve = syscall.RESOLVE_IN_ROOT | syscall.RESOLVE_NO_SYMLINKS
    folder, name = os.path.split(path)
    here = syscall.openat2(root, folder, os.O_PATH | os.O_DIRECTORY, resolve=resolve)
    try:
        flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW
        fd = syscall.openat2(here, name, flags, mode=mode, resolve=resolve)
        try:
            owner = os.fstat(here)
            os.fchown(fd, owner.st_uid, owner.st_gid)
            os.fchmod(fd, mode)
        finally:
            os.close(fd)
    finally:
        os.close(here)


def mount_points(mountinfo: str) -> tuple[str, ...]:
    """Return where anything is mounted below the root, as bytes escape (proc_pid_mountinfo(5)) left undone."""
    found = [line.split()[4] for line in filter(None, mountinfo.split("\n"))]
    return tuple(sorted(point for point in found if point != "/"))


def rewritten(data: bytes, points: tuple[str, ...]) -> bytes:
    """Return a files.img without the sizes of files on volumes.

    Raises:
        Refused: see `settle`.
    """
    pieces = [data[: len(held.MAGIC)]]
    for raw, entry in held.entries(data):
        for path in _paths(entry):
            if why := refusals.of_path(path):
                raise Refused(why)
        piece = raw
        if entry.HasField("reg") and entry.reg.HasField("size") and _on(entry.reg.name, points):
            entry.reg.ClearField("size")
            piece = entry.SerializeToString()
        pieces += [_LENGTH.pack(len(piece)), piece]
    return b"".join(pieces)


def _paths(entry: Any) -> Iterator[str]:
    if entry.HasField("reg"):
        yield entry.reg.name
    if entry.HasField("ify"):
        for watch in entry.ify.wd:
            yield watch.f_handle.path


def _on(path: str, points: tuple[str, ...]) -> bool:
    return any(path == point or path.startswith(point + "/") for point in points)
