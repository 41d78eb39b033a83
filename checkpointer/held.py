"""What the network has to be held for while a container sleeps, read from its image.

The image is the authority: it is what will be restored. Sockets seen in /proc a moment earlier may have changed.
"""

from __future__ import annotations

import dataclasses
import functools
import ipaddress
import socket
import struct
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from checkpointer.errors import ImageError, Missing
from redirector.endpoints import Connection, Port

_MAGIC = struct.pack(
    "<II", 0x54564319, 0x56303138
)  # criu/include/magic.h: IMG_COMMON_MAGIC, FILES_MAGIC
_LENGTH = struct.Struct("<I")
_LISTEN = 10  # net/tcp_states.h; criu stores the kernel's numbers


@dataclasses.dataclass(frozen=True, slots=True)
class Held:
    """Ports and connections of an image.

    Attributes:
        ports: TCP ports it listens on, and UDP ports.
        connections: Its TCP connections.
        exclusive: TCP ports bound without SO_REUSEADDR; of interest before the kill only, and not kept in a manifest.
    """

    ports: frozenset[Port]
    connections: frozenset[Connection]
    exclusive: frozenset[int] = frozenset()


@functools.cache
def _messages() -> Any:
    """Import the classes of files.img; pycriu.images appends its directory, full of general names, to sys.path.

    Only the classes: its reader fails with newer protobufs (6.33: GetOptions in pb2dict.py).
    """
    path = list(sys.path)
    try:
        from pycriu.images import fdinfo_pb2  # noqa: PLC0415 - only a daemon that reads images needs it
    except ImportError as error:
        raise Missing("pycriu is missing: install Debian's python3-pycriu") from error
    finally:
        sys.path[:] = path
    return fdinfo_pb2


def _address(family: int, words: Iterable[int]) -> str:
    """Return an address that criu stored as 32-bit words in network order; mapped IPv4 as IPv4."""
    raw = b"".join(struct.pack("=I", word) for word in words)
    if family == socket.AF_INET:
        return str(ipaddress.IPv4Address(raw[:4]))
    address = ipaddress.IPv6Address(raw[:16])
    return str(address.ipv4_mapped or address)


def parse(data: bytes) -> Iterator[Any]:
    """Iterate over the inet sockets in a files.img: two magic numbers, then entries with their lengths before them.

    Raises:
        ImageError: it is not one of criu's, or cut short.
    """
    if data[: len(_MAGIC)] != _MAGIC:
        raise ImageError("files.img does not begin as criu's files do")
    offset = len(_MAGIC)
    while offset < len(data):
        (length,) = _LENGTH.unpack_from(data.ljust(offset + _LENGTH.size, b"\0"), offset)
        offset += _LENGTH.size
        if offset + length > len(data):
            raise ImageError("files.img is cut short")
        entry = _messages().file_entry.FromString(data[offset : offset + length])
        offset += length
        if entry.HasField("isk"):
            yield entry.isk


def of(sockets: Iterable[Any]) -> Held:
    """Sort inet sockets, criu's `inet_sk_entry`, into ports and connections."""
    ports, connections, exclusive = set(), set(), set()
    for isk in sockets:
        local, remote = isk.src_port, isk.dst_port
        if isk.proto == socket.IPPROTO_TCP and local and not isk.opts.reuseaddr:
            exclusive.add(local)
        if isk.proto == socket.IPPROTO_UDP and local:
            ports.add(Port("udp", local))
        elif isk.proto == socket.IPPROTO_TCP and isk.state == _LISTEN:
            ports.add(Port("tcp", local))
        elif isk.proto == socket.IPPROTO_TCP and local and remote:
            here, there = _address(isk.family, isk.src_addr), _address(isk.family, isk.dst_addr)
            connections.add(Connection(here, local, there, remote))
    return Held(frozenset(ports), frozenset(connections), frozenset(exclusive))


def read(directory: Path) -> Held:
    """Read the held set from an image directory.

    Raises:
        ImageError: files.img is missing or not one of criu's.
        Missing: pycriu is not installed.
    """
    try:
        return of(parse((directory / "files.img").read_bytes()))
    except OSError as error:
        raise ImageError(f"the sockets in the image cannot be read: {error}") from error
