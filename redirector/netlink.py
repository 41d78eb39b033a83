"""What every netlink message consists of, as far as it is read here by hand (netlink(7))."""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Callable, Iterator
from typing import TypeVar

T = TypeVar("T")

ATTRIBUTE = struct.Struct("=HH")
"""struct nlattr: length, type."""

HEADER = struct.Struct("=IHHII")
"""struct nlmsghdr: length, type, flags, sequence number, port."""

_REQUEST_DUMP, _REQUEST_ACK = 0x301, 0x5
_ERROR, _DONE = 2, 3

_TYPE = 0x3FFF  # NLA_TYPE_MASK: without the flags


def attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Iterate over attributes: type and content."""
    offset = 0
    while offset + ATTRIBUTE.size <= len(data):
        length, kind = ATTRIBUTE.unpack_from(data, offset)
        yield kind & _TYPE, data[offset + ATTRIBUTE.size : offset + length]
        offset += max((length + 3) & ~3, ATTRIBUTE.size)


def text(data: bytes) -> str:
    """Return a string attribute."""
    return data.rstrip(b"\0").decode(errors="replace")


def ask(link: socket.socket, kind: int, request: bytes) -> None:
    """Send a request for all there is of something."""
    length = HEADER.size + len(request)
    link.send(HEADER.pack(length, kind, _REQUEST_DUMP, 0, 0) + request)


def order(link: socket.socket, kind: int, request: bytes, who: str) -> None:
    """Have something done.

    Raises:
        OSError: the kernel refused it; `who` is named.
    """
    length = HEADER.size + len(request)
    link.send(HEADER.pack(length, kind, _REQUEST_ACK, 0, 0) + request)
    number = -struct.unpack_from("=i", link.recv(4096), HEADER.size)[0]
    if number:
        raise OSError(number, f"{who}: {os.strerror(number)}")


def answers(
    link: socket.socket, parse: Callable[[bytes], Iterator[T | None]], size: int
) -> Iterator[T]:
    """Iterate over all that comes for a request until `parse`, given what one receive of `size` bytes got, yields None."""
    while True:
        for entry in parse(link.recv(size)):
            if entry is None:
                return
            yield entry


def contents(buffer: bytes, who: str) -> Iterator[bytes | None]:
    """Iterate over the contents of the messages of one receive; None marks the end of the answer.

    Raises:
        OSError: the kernel refused the request; `who` is named.
    """
    offset = 0
    while offset + HEADER.size <= len(buffer):
        length, kind, *_ = HEADER.unpack_from(buffer, offset)
        body = buffer[offset + HEADER.size : offset + length]
        if kind == _DONE:
            yield None
            return
        if kind == _ERROR:
            number = -struct.unpack_from("=i", body)[0]
            raise OSError(number or errno.EPROTO, f"{who}: {os.strerror(number)}")
        yield body
        offset += (length + 3) & ~3
