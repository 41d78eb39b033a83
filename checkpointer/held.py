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
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from checkpointer.errors import ImageError, Missing
from redirector.endpoints import Connection, Keepalive, Port, Stream

# criu/include/magic.h: IMG_COMMON_MAGIC and FILES_MAGIC, TCP_STREAM_MAGIC
MAGIC = struct.pack("<II", 0x54564319, 0x56303138)
_STREAM_MAGIC = struct.pack("<II", 0x54564319, 0x51465506)
_LENGTH = struct.Struct("<I")
# net/tcp_states.h; criu stores the kernel's numbers
_LISTEN = 10
_OPENED = frozenset({1, 4, 5, 8, 9, 11})  # both sides know each other's numbers
_FIN_UNACKNOWLEDGED = frozenset({4, 9, 11})  # FIN_WAIT1, LAST_ACK, CLOSING
_TIMESTAMPS = 1  # TCPI_OPT_TIMESTAMPS, linux/tcp.h
_WINDOW = 65535  # of a connection of which criu could not read it


@dataclasses.dataclass(frozen=True, slots=True)
class Held:
    """Ports and connections of an image.

    Attributes:
        ports: TCP ports it listens on, and UDP ports.
        connections: Its TCP connections.
        exclusive: TCP ports bound without SO_REUSEADDR; of interest before the kill only, and not kept in a manifest.
        streams: How the connections stand.
    """

    ports: frozenset[Port]
    connections: frozenset[Connection]
    exclusive: frozenset[int] = frozenset()
    streams: Mapping[Connection, Stream] = dataclasses.field(default_factory=dict)


@functools.cache
def messages() -> Any:
    """Import the classes of the files; pycriu.images appends its directory, full of general names, to sys.path.

    Only the classes: its reader fails with newer protobufs (6.33: GetOptions in pb2dict.py).
    """
    path = list(sys.path)
    try:
        from pycriu.images import (  # noqa: PLC0415 - only a daemon that reads images needs them
            cgroup_pb2,
            fdinfo_pb2,
            tcp_stream_pb2,
        )
    except ImportError as error:
        raise Missing("pycriu is missing: install Debian's python3-pycriu") from error
    finally:
        sys.path[:] = path
    return SimpleNamespace(
        file_entry=fdinfo_pb2.file_entry,
        tcp_stream_entry=tcp_stream_pb2.tcp_stream_entry,
        cgroup_entry=cgroup_pb2.cgroup_entry,
    )


def _address(family: int, words: Iterable[int]) -> str:
    """Return an address that criu stored as 32-bit words in network order; mapped IPv4 as IPv4."""
    raw = b"".join(struct.pack("=I", word) for word in words)
    if family == socket.AF_INET:
        return str(ipaddress.IPv4Address(raw[:4]))
    address = ipaddress.IPv6Address(raw[:16])
    return str(address.ipv4_mapped or address)


def parse(data: bytes) -> Iterator[Any]:
    """Iterate over the inet sockets in a files.img.

    Raises:
        ImageError: it is not one of criu's, or cut short.
    """
    return (entry.isk for _, entry in entries(data) if entry.HasField("isk"))


def entries(data: bytes) -> Iterator[tuple[bytes, Any]]:
    """Iterate over a files.img, raw and read: two magic numbers, then entries with their lengths before them.

    Raises:
        ImageError: it is not one of criu's, or cut short.
    """
    if data[: len(MAGIC)] != MAGIC:
        raise ImageError("files.img does not begin as criu's files do")
    offset = len(MAGIC)
    while offset < len(data):
        (length,) = _LENGTH.unpack_from(data.ljust(offset + _LENGTH.size, b"\0"), offset)
        offset += _LENGTH.size
        if offset + length > len(data):
            raise ImageError("files.img is cut short")
        raw = data[offset : offset + length]
        offset += length
        yield raw, messages().file_entry.FromString(raw)


def parse_stream(data: bytes) -> Any:
    """Return the entry of a tcp-stream-*.img; what its queues held comes behind it.

    Raises:
        ImageError: it is not one of criu's, or cut short.
    """
    start = len(_STREAM_MAGIC) + _LENGTH.size
    if data[: len(_STREAM_MAGIC)] != _STREAM_MAGIC or len(data) < start:
        raise ImageError("a tcp-stream.img does not begin as criu's files do")
    (length,) = _LENGTH.unpack_from(data, len(_STREAM_MAGIC))
    if len(data) < start + length:
        raise ImageError("a tcp-stream.img is cut short")
    return messages().tcp_stream_entry.FromString(data[start : start + length])


def stream(isk: Any, entry: Any) -> Stream:
    """Say how a connection stands, from criu's `inet_sk_entry` and `tcp_stream_entry`.

    criu keeps the kernel's numbers (soccr/soccr.c): inq_seq is rcv_nxt, outq_seq write_seq. A FIN of ours counts in the
    latter, but not in the length of the queue.
    """
    unacknowledged = entry.outq_len + (isk.state in _FIN_UNACKNOWLEDGED)
    window = _WINDOW
    if entry.HasField("rcv_wnd"):
        window = max(_signed(entry.rcv_wup + entry.rcv_wnd - entry.inq_seq), 0)
    keepalive = None
    if isk.opts.so_keepalive:
        wish = isk.tcp_opts
        keepalive = Keepalive(wish.keepidle, wish.keepintvl, wish.keepcnt)
    return Stream(
        snd_una=(entry.outq_seq - unacknowledged) % _MODULUS,
        snd_nxt=(entry.outq_seq - entry.unsq_len) % _MODULUS,
        rcv_nxt=entry.inq_seq,
        window=window,
        shift=entry.rcv_wscale,
        tsval=entry.timestamp if entry.opt_mask & _TIMESTAMPS else None,
        keepalive=keepalive,
    )


_MODULUS = 1 << 32  # of sequence numbers


def _signed(number: int) -> int:
    """Return a difference of two sequence numbers."""
    return (number + (_MODULUS >> 1)) % _MODULUS - (_MODULUS >> 1)


def of(sockets: Iterable[Any], entry_of: Callable[[Any], Any] = lambda _: None) -> Held:
    """Sort inet sockets, criu's `inet_sk_entry`, into ports and connections.

    Args:
        sockets: Of one image.
        entry_of: Returns the `tcp_stream_entry` of such a socket, None if there is none.
    """
    ports, connections, exclusive, streams = set(), set(), set(), {}
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
            connection = Connection(here, local, there, remote)
            connections.add(connection)
            if isk.state in _OPENED and (entry := entry_of(isk)) is not None:
                streams[connection] = stream(isk, entry)
    return Held(frozenset(ports), frozenset(connections), frozenset(exclusive), streams)


def read(directory: Path) -> Held:
    """Read the held set from an image directory.

    Raises:
        ImageError: a file is missing or not one of criu's.
        Missing: pycriu is not installed.
    """

    def entry_of(isk: Any) -> Any:
        return parse_stream((directory / f"tcp-stream-{isk.ino:x}.img").read_bytes())

    try:
        return of(parse((directory / "files.img").read_bytes()), entry_of)
    except OSError as error:
        raise ImageError(f"the sockets in the image cannot be read: {error}") from error
