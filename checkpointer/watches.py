"""Paths of what inotify watches on an overlay, the usual root of a container, where criu cannot find them by itself.

criu needs a path to watch again. It asks the file system for it by file handle, which overlayfs refuses (criu#136,
criu#1187: "Can't dump that handle"), and then looks only where its options say. So we look: for the inode, among the
names below the root, before the application is frozen.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from bpf import syscall
from checkpointer.descriptors import Process, Watch

LIMIT = 5.0
"""Seconds for looking; a million names take three."""


def wanted(tree: Iterable[Process], pid: int) -> set[Watch]:
    """Return the watches of a tree that criu will not find: those on the root of `pid`, if that is an overlay."""
    device = _overlay(Path(f"/proc/{pid}/mountinfo").read_text(errors="replace"))
    return {watch for process in tree for watch in process.watches if watch.device == device}


def _overlay(mountinfo: str) -> int | None:
    """Return the device of the root of a mount namespace if it is an overlay (proc_pid_mountinfo(5))."""
    for line in filter(None, mountinfo.split("\n")):
        fields, _, more = line.partition(" - ")
        if fields.split()[4] == "/" and more.startswith("overlay "):
            major, minor = fields.split()[2].split(":")
            return os.makedev(int(major), int(minor))
    return None


def find(
    pid: int, wanted: Iterable[Watch], known: dict[Watch, str] | None = None
) -> dict[Watch, str]:
    """Return the path of each watched inode that has one, as `pid` sees it; `known` are tried first.

    Raises:
        OSError: the process is gone.
    """
    root = os.open(f"/proc/{pid}/root", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        left = {watch.inode: watch for watch in wanted}
        found = {}
        for path, inode in _candidates(root, left, (known or {}).values()):
            watch = left.get(inode)
            if watch is not None and _is(root, path, watch):
                found[left.pop(inode)] = "/" + path
            if not left:
                break
        return found
    finally:
        os.close(root)


def _candidates(
    root: int, left: dict[int, Watch], known: Iterable[str]
) -> Iterator[tuple[str, int]]:
    """Iterate over paths (without the leading slash) that may be the ones, with their inodes."""
    yield "", os.fstat(root).st_ino
    for path in known:
        try:
            yield path[1:], _stat(root, path).st_ino
        except OSError:
            continue
    end = time.monotonic() + LIMIT
    device = os.fstat(root).st_dev
    folders = [""]
    for folder in folders:  # grows while it is read: broad before deep
        if not left or time.monotonic() > end:
            return
        yield from _folder(root, device, folder, folders)


def _open(root: int, path: str, flags: int) -> int:
    """Open what is on the root itself. A container may put links and mounts into any path at any time; none is followed."""
    resolve = syscall.RESOLVE_IN_ROOT | syscall.RESOLVE_NO_SYMLINKS | syscall.RESOLVE_NO_XDEV
    return syscall.openat2(root, path or ".", flags | os.O_NOFOLLOW, resolve=resolve)


def _stat(root: int, path: str) -> os.stat_result:
    fd = _open(root, path, os.O_PATH)
    try:
        return os.fstat(fd)
    finally:
        os.close(fd)


def _folder(root: int, device: int, folder: str, folders: list[str]) -> Iterator[tuple[str, int]]:
    try:
        fd = _open(root, folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NONBLOCK)
    except OSError:
        return
    try:
        if os.fstat(fd).st_dev != device:
            return
        with os.scandir(fd) as entries:
            for entry in entries:
                path = f"{folder}/{entry.name}" if folder else entry.name
                if entry.is_dir(follow_symlinks=False):
                    folders.append(path)
                yield path, entry.inode()
    except OSError:
        return  # removed meanwhile
    finally:
        os.close(fd)


def _is(root: int, path: str, watch: Watch) -> bool:
    try:
        stat = _stat(root, path)
    except OSError:
        return False
    return (stat.st_dev, stat.st_ino) == watch
