"""What every netlink message consists of, as far as it is read here by hand (netlink(7))."""

from __future__ import annotations

import struct
from collections.abc import Iterator

ATTRIBUTE = struct.Struct("=HH")
"""struct nlattr: length, type."""

HEADER = struct.Struct("=IHHII")
"""struct nlmsghdr: length, type, flags, sequence number, port."""

REQUEST_DUMP = 0x301
ERROR, DONE = 2, 3

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
