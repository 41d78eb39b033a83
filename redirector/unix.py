"""Which Unix sockets a network namespace has and who is connected to whom, as sock_diag tells (linux/unix_diag.h).

/proc/net/unix does not say who a socket's peer is. A peer may be outside: sockets are connected by files, and files
are shared across network namespaces; then its inode is told, and nothing else.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator
from typing import NamedTuple

from redirector import netlink, netns


class Unix(NamedTuple):
    """One socket.

    Attributes:
        kind: socket.SOCK_STREAM, SOCK_DGRAM or SOCK_SEQPACKET.
        peer: Inode of the other end, 0 without one.
        name: What it is bound to, "" for nothing; abstract names begin with "@".
    """

    kind: int
    peer: int
    name: str


_NETLINK_SOCK_DIAG = 4
_SOCK_DIAG_BY_FAMILY = 20
_REQUEST = struct.Struct("=BBHIIIII")  # struct unix_diag_req
_MESSAGE = struct.Struct("=BBBBIII")  # struct unix_diag_msg
_SHOW_NAME_AND_PEER = 0x1 | 0x4
_NAME, _PEER = 0, 2
_BUFFER = 1 << 16


def table(pid: int) -> dict[int, Unix]:
    """Return the Unix sockets of the network namespace of `pid` by inode.

    Raises:
        OSError: the process is gone.
    """
    return netns.run(pid, here)


def here() -> dict[int, Unix]:
    """Return those of the calling thread's own network namespace."""
    request = _REQUEST.pack(socket.AF_UNIX, 0, 0, 0xFFFFFFFF, 0, _SHOW_NAME_AND_PEER, 0, 0)
    with socket.socket(
        socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_SOCK_DIAG
    ) as diag:
        netlink.ask(diag, _SOCK_DIAG_BY_FAMILY, request)
        return dict(netlink.answers(diag, parse, _BUFFER))


def parse(buffer: bytes) -> Iterator[tuple[int, Unix] | None]:
    """Read one receive of a dump's answer; None marks its end.

    Raises:
        OSError: the kernel refused the dump.
    """
    for content in netlink.contents(buffer, "sock_diag"):
        if content is None:
            yield None
            return
        _, sort, _, _, inode, *_ = _MESSAGE.unpack_from(content)
        name, peer = "", 0
        for attribute, value in netlink.attributes(content[_MESSAGE.size :]):
            if attribute == _NAME:
                name = _text(value)
            elif attribute == _PEER:
                (peer,) = struct.unpack("=I", value)
        yield inode, Unix(sort, peer, name)


def _text(name: bytes) -> str:
    shown = b"@" + name[1:] if name.startswith(b"\0") else name.rstrip(b"\0")
    return os.fsdecode(shown)
