"""What processes have open, as far as it decides whether criu can bring them back. Facts; `refusals` judges them."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import logging
import os
import socket
import sys
import termios
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from bpf import syscall
from redirector import nat, unix

_log = logging.getLogger(__name__)

NAMESPACES = ("cgroup", "mnt", "net", "pid", "user", "uts")
"""Those that an application has to share with its container. An ipc namespace of its own it may have from an earlier
restore, and so may it have a time namespace."""

_INOTIFY = ("anon_inode:inotify", "anon_inode:[inotify]")

_SOL_TCP_ULP = 31  # linux/tcp.h: TCP_ULP
_ULP_NAME = 16  # net/tcp.h: TCP_ULP_NAME_MAX


class File(NamedTuple):
    """A file by a path that was open.

    Attributes:
        path: As /proc/PID/fd shows it, " (deleted)" included.
        mode: st_mode.
        links: st_nlink; a deleted file may have other names.
        size: In bytes.
        rdev: Of a device.
        mount: Number of the mount it was opened on.
    """

    path: str
    mode: int
    links: int
    size: int
    rdev: int
    mount: int


class Socket(NamedTuple):
    """A socket, as its own options describe it; `ulp` is the protocol above TCP that the kernel speaks ("tls")."""

    inode: int
    family: int
    kind: int
    proto: int
    peer: str = ""
    ulp: str = ""


class Watch(NamedTuple):
    """An inode that inotify watches."""

    device: int
    inode: int


@dataclasses.dataclass(frozen=True, slots=True)
class Process:
    """What was read of one process.

    Attributes:
        pid: Its number.
        tracer: Its tracer's, 0 for none.
        links: Targets of its descriptors, and mapped objects that are no files.
        paths: Its working directory and mapped files.
        files: Those of the descriptors that are files.
        sockets: Its sockets.
        watches: What it watches by inotify.
        unread: Bytes of inotify events that it has not read.
        pidfds: Processes that it has a descriptor of.
        namespaces: Kinds of namespaces that it does not share with its container.
    """

    pid: int
    tracer: int
    links: tuple[str, ...]
    paths: tuple[str, ...]
    files: tuple[File, ...] = ()
    sockets: tuple[Socket, ...] = ()
    watches: tuple[Watch, ...] = ()
    unread: int = 0
    pidfds: tuple[int, ...] = ()
    namespaces: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True)
class Surroundings:
    """What the processes of a tree have in common.

    Attributes:
        mounts: Numbers of the mounts of its mount namespace.
        unix: The Unix sockets of its network namespace, by inode.
        nat: A rule of its network namespace that changes addresses or ports; "" without one.
    """

    mounts: frozenset[int] = frozenset()
    unix: dict[int, unix.Unix] = dataclasses.field(default_factory=dict)
    nat: str = ""


def surroundings(pid: int) -> Surroundings:
    """Look around a process.

    Raises:
        OSError: it is gone.
    """
    return Surroundings(mounts(pid), unix.table(pid), nat.rule(pid))


def mounts(pid: int) -> frozenset[int]:
    """Return the numbers of the mounts in the mount namespace of a process."""
    lines = filter(None, _text(Path(f"/proc/{pid}/mountinfo")).split("\n"))
    return frozenset(int(line.split()[0]) for line in lines)


def read(pids: Iterable[int], container: int = 0) -> Iterator[Process]:
    """Look at each process; those that end meanwhile are passed over.

    Args:
        pids: The processes.
        container: One whose namespaces are the container's; 0 = do not compare.
    """
    shared = _namespaces(container) if container else {}
    for pid in pids:
        try:
            yield _process(pid, shared)
        except OSError as error:
            _log.debug("descriptors.gone", extra={"pid": pid, "error": str(error)})


def _process(pid: int, shared: dict[str, str]) -> Process:
    proc = Path(f"/proc/{pid}")
    descriptors = dict(_links(proc / "fd"))
    mapped = set(_mapped(_text(proc / "maps")))
    objects = {name for name in mapped if not name.startswith("/")}
    own = _namespaces(pid) if shared else {}
    return Process(
        pid,
        tracer=int(_after(_text(proc / "status"), "TracerPid:")),
        links=(*descriptors.values(), *sorted(objects)),
        paths=(os.readlink(proc / "cwd"), *sorted(mapped - objects)),  # noqa: PTH115 - the text as it stands
        files=tuple(_files(proc, descriptors)),
        sockets=tuple(_sockets(pid, descriptors)),
        watches=tuple(_watches(proc, descriptors)),
        unread=unread(pid, descriptors),
        pidfds=tuple(_pidfds(proc, descriptors)),
        namespaces=tuple(kind for kind in own if own[kind] != shared[kind]),
    )


def _links(directory: Path) -> Iterator[tuple[int, str]]:
    for name in os.listdir(directory):  # noqa: PTH208 - names, not paths: this runs for thousands of descriptors
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            yield int(name), os.readlink(f"{directory}/{name}")  # noqa: PTH115


def _mapped(maps: str) -> Iterator[str]:
    for line in maps.split("\n"):
        if "/" in line or "anon_inode:" in line:
            yield line.split(None, 5)[5]


def _files(proc: Path, descriptors: dict[int, str]) -> Iterator[File]:
    for fd, link in descriptors.items():
        if link.startswith("/"):
            with contextlib.suppress(FileNotFoundError):
                stat = os.stat(f"{proc}/fd/{fd}")  # noqa: PTH116
                mount = int(_after(_text(proc / "fdinfo" / str(fd)), "mnt_id:") or -1)
                yield File(link, stat.st_mode, stat.st_nlink, stat.st_size, stat.st_rdev, mount)


def _sockets(pid: int, descriptors: dict[int, str]) -> Iterator[Socket]:
    pidfd = os.pidfd_open(pid)
    try:
        for fd, link in descriptors.items():
            if not link.startswith("socket:["):
                continue
            try:
                copy = syscall.pidfd_getfd(pidfd, fd)
            except OSError:
                continue  # closed meanwhile
            # Neither dup() nor a time-out: both would change the mode of the application's own file.
            with socket.socket(fileno=copy) as duplicate:
                yield _socket(int(link[len("socket:[") : -1]), duplicate)
    finally:
        os.close(pidfd)


def _socket(inode: int, found: socket.socket) -> Socket:
    peer, ulp = "", ""
    with contextlib.suppress(OSError):  # it has none
        if found.family == socket.AF_UNIX:
            name = found.getpeername()
            peer = os.fsdecode(name if isinstance(name, bytes) else name.encode(errors="replace"))
        elif found.proto == socket.IPPROTO_TCP:
            name = found.getsockopt(socket.IPPROTO_TCP, _SOL_TCP_ULP, _ULP_NAME)
            ulp = name.rstrip(b"\0").decode(errors="replace")
    return Socket(inode, found.family, found.type, found.proto, peer.replace("\0", "@"), ulp)


def _watches(proc: Path, descriptors: dict[int, str]) -> Iterator[Watch]:
    for fd, link in descriptors.items():
        if link in _INOTIFY:
            with contextlib.suppress(FileNotFoundError):
                yield from watches(_text(proc / "fdinfo" / str(fd)))


def watches(fdinfo: str) -> Iterator[Watch]:
    """Read the watches from the fdinfo of an inotify descriptor."""
    for line in fdinfo.split("\n"):
        if line.startswith("inotify "):
            fields = dict(word.split(":", 1) for word in line.split()[1:] if ":" in word)
            device = int(fields["sdev"], 16)
            # The kernel's own numbering (linux/kdev_t.h), not that of user space.
            yield Watch(os.makedev(device >> 20, device & 0xFFFFF), int(fields["ino"], 16))


def unread(pid: int, descriptors: dict[int, str] | None = None) -> int:
    """Return how many bytes of inotify events a process has not read; criu drops them."""
    if descriptors is None:
        descriptors = dict(_links(Path(f"/proc/{pid}/fd")))
    mine = [fd for fd, link in descriptors.items() if link in _INOTIFY]
    if not mine:
        return 0
    count = 0
    pidfd = os.pidfd_open(pid)
    try:
        for fd in mine:
            with contextlib.suppress(OSError):  # closed meanwhile
                copy = syscall.pidfd_getfd(pidfd, fd)
                try:
                    answer = fcntl.ioctl(copy, termios.FIONREAD, bytes(4))
                finally:
                    os.close(copy)
                count += int.from_bytes(answer, sys.byteorder)
    finally:
        os.close(pidfd)
    return count


def _pidfds(proc: Path, descriptors: dict[int, str]) -> Iterator[int]:
    for fd, link in descriptors.items():
        if link == "anon_inode:[pidfd]":
            with contextlib.suppress(FileNotFoundError):
                pid = int(_after(_text(proc / "fdinfo" / str(fd)), "Pid:") or -1)
                if pid > 0:  # else it has ended, which criu knows how to bring back
                    yield pid


def _namespaces(pid: int) -> dict[str, str]:
    return {kind: os.readlink(f"/proc/{pid}/ns/{kind}") for kind in NAMESPACES}  # noqa: PTH115


def _after(text: str, name: str) -> str:
    """The word after a name at the beginning of a line; "" without one."""
    # Not splitlines(): a process may have a form feed in its name.
    return next((line.split()[1] for line in text.split("\n") if line.startswith(name)), "")


def _text(path: Path) -> str:
    return path.read_text(errors="replace")
