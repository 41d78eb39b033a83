"""One door to the kernel: the system calls that Python's standard library lacks.

The only module in the tree that may use ctypes. A wrapper is named like the call it makes, does
nothing else and raises OSError. Constants stand under the header that defines them.
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct
from collections.abc import Iterator
from typing import NamedTuple

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long

# asm/unistd_64.h and asm-generic/unistd.h
_NUMBERS = {
    "x86_64": {
        "bpf": 321,
        "pidfd_getfd": 438,
        "ioprio_set": 251,
        "ioprio_get": 252,
        "openat2": 437,
    },
    "aarch64": {
        "bpf": 280,
        "pidfd_getfd": 438,
        "ioprio_set": 30,
        "ioprio_get": 31,
        "openat2": 437,
    },
}
_machine = platform.machine()

# linux/sched.h
CLONE_FS = 0x00000200
CLONE_NEWNS = 0x00020000
CLONE_NEWNET = 0x40000000

# linux/prctl.h
PR_SET_NAME = 15
PR_SET_NO_NEW_PRIVS = 38

# linux/ioprio.h
IOPRIO_WHO_PROCESS = 1

# linux/fanotify.h
FAN_OPEN_PERM = 0x00010000
FAN_OPEN_EXEC_PERM = 0x00040000
FAN_CLOEXEC = 0x00000001
FAN_CLASS_CONTENT = 0x00000004
FAN_UNLIMITED_QUEUE = 0x00000010
FAN_UNLIMITED_MARKS = 0x00000020
FAN_MARK_ADD = 0x00000001
FAN_MARK_REMOVE = 0x00000002
FAN_MARK_MOUNT = 0x00000010
FAN_ALLOW = 0x01
FAN_DENY = 0x02
FANOTIFY_METADATA_VERSION = 3
_FAN_METADATA = struct.Struct("=IBBHQii")  # struct fanotify_event_metadata, 24 bytes
_FAN_RESPONSE = struct.Struct("=iI")  # struct fanotify_response

# fcntl.h
AT_FDCWD = -100

# linux/fs.h
SYNC_FILE_RANGE_WRITE = 2

# linux/openat2.h
RESOLVE_NO_XDEV = 0x01
RESOLVE_NO_SYMLINKS = 0x04
RESOLVE_IN_ROOT = 0x10

# linux/bpf.h, enum bpf_cmd
BPF_MAP_LOOKUP_ELEM = 1
BPF_MAP_UPDATE_ELEM = 2
BPF_MAP_DELETE_ELEM = 3
BPF_MAP_GET_NEXT_KEY = 4
BPF_OBJ_PIN = 6
BPF_OBJ_GET = 7
BPF_OBJ_GET_INFO_BY_FD = 15
BPF_LINK_CREATE = 28
# linux/bpf.h, enum bpf_attach_type
BPF_CGROUP_SOCK_OPS = 3
# linux/bpf.h, flags of BPF_MAP_UPDATE_ELEM
BPF_ANY = 0
BPF_NOEXIST = 1


def _checked(result: int, call: str, subject: str | None = None) -> int:
    """Return `result`, or raise the OSError that errno names: the one errno helper."""
    if result != -1:
        return result
    errno = ctypes.get_errno()
    raise OSError(errno, f"{call}: {os.strerror(errno)}", subject)


def _number(call: str) -> int:
    try:
        return _NUMBERS[_machine][call]
    except KeyError:
        message = f"{call}: no system call number known for {_machine}"
        raise NotImplementedError(message) from None


def setns(fd: int, nstype: int = 0) -> None:
    """Move the calling thread into the namespace behind `fd` (os.setns is Python 3.12+)."""
    _checked(_libc.setns(fd, nstype), "setns")


def unshare(flags: int) -> None:
    """Give the calling thread a context of its own, e.g. CLONE_FS (os.unshare is 3.12+)."""
    _checked(_libc.unshare(flags), "unshare")


def getsockopt(fd: int, level: int, option: int, value: bytes) -> bytes:
    """Read a socket option whose getter reads `value` first, which Python's own cannot give."""
    buffer = ctypes.create_string_buffer(value, len(value))
    length = ctypes.c_uint32(len(value))
    _checked(_libc.getsockopt(fd, level, option, buffer, ctypes.byref(length)), "getsockopt")
    return buffer.raw[: length.value]


def prctl(option: int, arg2: int | bytes = 0, arg3: int = 0, arg4: int = 0, arg5: int = 0) -> int:
    """Change the calling process or thread; a bytes `arg2` is passed as a C string."""
    second = ctypes.c_char_p(arg2) if isinstance(arg2, bytes) else ctypes.c_ulong(arg2)
    rest = (ctypes.c_ulong(value) for value in (arg3, arg4, arg5))
    return _checked(_libc.prctl(option, second, *rest), "prctl")


def pidfd_getfd(pidfd: int, target_fd: int) -> int:
    """Duplicate descriptor `target_fd` of the process behind `pidfd`; close-on-exec."""
    args = (ctypes.c_long(pidfd), ctypes.c_long(target_fd), ctypes.c_long(0))
    return _checked(_libc.syscall(_number("pidfd_getfd"), *args), "pidfd_getfd")


def openat2(
    dirfd: int, path: str | bytes, flags: int, *, mode: int = 0, resolve: int = RESOLVE_IN_ROOT
) -> int:
    """Open a path below `dirfd`, by default as if that were the root: no symbolic link leads out of it.

    The descriptor is close-on-exec.
    """
    name = ctypes.create_string_buffer(os.fsencode(path))
    how = struct.pack("=QQQ", flags | os.O_CLOEXEC, mode, resolve)  # struct open_how
    args = (ctypes.c_long(dirfd), name, ctypes.c_char_p(how), ctypes.c_size_t(len(how)))
    result = _libc.syscall(_number("openat2"), *args)
    return _checked(result, "openat2", os.fsdecode(path))


def sync_file_range(fd: int, flags: int) -> None:
    """Begin to write a file's dirty pages, or wait for them."""
    whole = ctypes.c_int64(0), ctypes.c_int64(0)
    _checked(_libc.sync_file_range(fd, *whole, ctypes.c_uint(flags)), "sync_file_range")


def ioprio_get(which: int, who: int) -> int:
    """Return the raw I/O priority (class << 13 | level) of a thread."""
    args = (ctypes.c_long(which), ctypes.c_long(who))
    return _checked(_libc.syscall(_number("ioprio_get"), *args), "ioprio_get")


def ioprio_set(which: int, who: int, ioprio: int) -> None:
    """Set the raw I/O priority of a thread."""
    args = (ctypes.c_long(which), ctypes.c_long(who), ctypes.c_long(ioprio))
    _checked(_libc.syscall(_number("ioprio_set"), *args), "ioprio_set")


def fanotify_init(flags: int, event_flags: int) -> int:
    """Return a new fanotify group; events carry descriptors opened with `event_flags`."""
    return _checked(_libc.fanotify_init(flags, event_flags), "fanotify_init")


def fanotify_mark(fd: int, flags: int, mask: int, dirfd: int, path: bytes | None) -> None:
    """Add or remove the mark on `path` below `dirfd`; None means `dirfd` itself."""
    arg = (ctypes.c_uint(flags), ctypes.c_uint64(mask), dirfd, ctypes.c_char_p(path))
    subject = None if path is None else os.fsdecode(path)
    _checked(_libc.fanotify_mark(fd, *arg), "fanotify_mark", subject)


class FanotifyEvent(NamedTuple):
    """One event of a fanotify group: what happened, on which descriptor (ours now), by whom."""

    mask: int
    fd: int
    pid: int


def fanotify_events(buffer: bytes) -> Iterator[FanotifyEvent]:
    """Iterate over the events of one read(2) from a fanotify group.

    Raises:
        ValueError: the kernel speaks another version of the structure, or the buffer is cut.
    """
    offset = 0
    while offset < len(buffer):
        if len(buffer) - offset < _FAN_METADATA.size:
            raise ValueError("fanotify: truncated event")
        length, version, _, _, mask, fd, pid = _FAN_METADATA.unpack_from(buffer, offset)
        if version != FANOTIFY_METADATA_VERSION or length < _FAN_METADATA.size:
            message = f"fanotify: unknown metadata version {version}, length {length}"
            raise ValueError(message)
        yield FanotifyEvent(mask, fd, pid)
        offset += length


def fanotify_response(fd: int, response: int) -> bytes:
    """Return the bytes that answer the permission event of `fd` with FAN_ALLOW or FAN_DENY."""
    return _FAN_RESPONSE.pack(fd, response)


def _bpf(command: int, attr: bytes, subject: str | None = None) -> int:
    union = ctypes.create_string_buffer(attr, len(attr))  # mutable: some commands write back
    args = (ctypes.c_long(command), union, ctypes.c_ulong(len(attr)))
    return _checked(_libc.syscall(_number("bpf"), *args), "bpf", subject)


def _map_elem(map_fd: int, key: int | None, value: int | None, flags: int = 0) -> bytes:
    """Pack the arm of union bpf_attr that BPF_MAP_*_ELEM use; key and value are addresses."""
    return struct.pack("=I4xQQQ", map_fd, key or 0, value or 0, flags)


def bpf_map_lookup(map_fd: int, key: bytes, value_size: int) -> bytes | None:
    """Return the value stored under `key`, or None."""
    name = ctypes.create_string_buffer(key, len(key))
    value = ctypes.create_string_buffer(value_size)
    attr = _map_elem(map_fd, ctypes.addressof(name), ctypes.addressof(value))
    try:
        _bpf(BPF_MAP_LOOKUP_ELEM, attr)
    except FileNotFoundError:
        return None
    return value.raw


def bpf_map_update(map_fd: int, key: bytes, value: bytes, flags: int = BPF_ANY) -> None:
    """Store `value` under `key`."""
    name = ctypes.create_string_buffer(key, len(key))
    data = ctypes.create_string_buffer(value, len(value))
    attr = _map_elem(map_fd, ctypes.addressof(name), ctypes.addressof(data), flags)
    _bpf(BPF_MAP_UPDATE_ELEM, attr)


def bpf_map_delete(map_fd: int, key: bytes) -> bool:
    """Remove `key`; False when there was no such key."""
    name = ctypes.create_string_buffer(key, len(key))
    try:
        _bpf(BPF_MAP_DELETE_ELEM, _map_elem(map_fd, ctypes.addressof(name), None))
    except FileNotFoundError:
        return False
    return True


def bpf_map_next_key(map_fd: int, key: bytes | None, key_size: int) -> bytes | None:
    """Return the key after `key` (the first for None), or None at the end."""
    name = None if key is None else ctypes.create_string_buffer(key, len(key))
    following = ctypes.create_string_buffer(key_size)
    address = None if name is None else ctypes.addressof(name)
    try:
        _bpf(BPF_MAP_GET_NEXT_KEY, _map_elem(map_fd, address, ctypes.addressof(following)))
    except FileNotFoundError:
        return None
    return following.raw


def bpf_obj_pin(fd: int, path: str) -> None:
    """Pin the program or map behind `fd` at `path` in a bpf file system."""
    name = ctypes.create_string_buffer(os.fsencode(path))
    _bpf(BPF_OBJ_PIN, struct.pack("=QII", ctypes.addressof(name), fd, 0), path)


def bpf_obj_get(path: str) -> int:
    """Return a descriptor of the program or map pinned at `path`."""
    name = ctypes.create_string_buffer(os.fsencode(path))
    return _bpf(BPF_OBJ_GET, struct.pack("=QII", ctypes.addressof(name), 0, 0), path)


def bpf_link_create(prog_fd: int, target_fd: int, attach_type: int) -> int:
    """Return a link that has the program run at the target (a cgroup, say) for as long as it exists."""
    return _bpf(BPF_LINK_CREATE, struct.pack("=IIII", prog_fd, target_fd, attach_type, 0))


class MapInfo(NamedTuple):
    """The first fields of struct bpf_map_info (linux/bpf.h)."""

    kind: int
    id: int
    key_size: int
    value_size: int
    max_entries: int


def bpf_map_info(map_fd: int) -> MapInfo:
    """Describe the map behind `map_fd`."""
    info = ctypes.create_string_buffer(80)
    attr = struct.pack("=IIQ", map_fd, len(info), ctypes.addressof(info))
    _bpf(BPF_OBJ_GET_INFO_BY_FD, attr)
    return MapInfo(*struct.unpack_from("=5I", info.raw))
