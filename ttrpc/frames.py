"""Bytes to frames and back; no input, no output.

A frame is a ten byte header and a body (containerd/ttrpc, channel.go):

    0-3  length of the body, big-endian
    4-7  stream id, big-endian; odd, and rising, for streams that the client opens
    8    type
    9    flags; only streaming calls use them
"""

from __future__ import annotations

import enum
import struct
from dataclasses import dataclass

from ttrpc import errors

HEADER = struct.Struct(">IIBB")

SEND_LIMIT = 4 << 20
"""Longest body that is sent, bytes: Go's receivers refuse more (messageLengthMax)."""

RECEIVE_LIMIT = 64 << 20
"""Longest body that is accepted. Go's ttrpc before 1.2.6 does not check what it sends: NRI 0.6
delivers a Synchronize of 8 MB in one frame."""


class Kind(enum.IntEnum):
    """Frame types that we know; others are ignored, as Go does for compatibility."""

    REQUEST = 1
    RESPONSE = 2
    DATA = 3


REMOTE_OPEN = 0x02
"""Flag of a request whose client goes on to send data: a streaming call."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame; `kind` is a plain number, since others than `Kind` can arrive."""

    stream: int
    kind: int
    flags: int
    body: bytes


def encode(stream: int, kind: Kind, body: bytes, *, limit: int = SEND_LIMIT) -> bytes:
    """Return the bytes of one frame.

    Raises:
        TtrpcError: RESOURCE_EXHAUSTED, the body is longer than `limit`.
    """
    if len(body) > limit:
        problem = f"message of {len(body)} bytes exceeds the limit of {limit}"
        raise errors.TtrpcError(errors.Code.RESOURCE_EXHAUSTED, problem)
    return HEADER.pack(len(body), stream, kind, 0) + body


class Decoder:
    """Puts frames together from chunks of any size.

    Holds at most one unfinished frame, so its memory is bounded by `limit`.
    """

    def __init__(self, *, limit: int = RECEIVE_LIMIT) -> None:
        self._limit = limit
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[Frame]:
        """Return the frames that `data` completes, in order.

        Raises:
            FrameError: a body longer than the limit, which also is what garbage looks like.
        """
        self._buffer += data
        found = []
        start = 0
        while len(self._buffer) - start >= HEADER.size:
            length, stream, kind, flags = HEADER.unpack_from(self._buffer, start)
            if length > self._limit:
                problem = f"frame of {length} bytes exceeds the limit of {self._limit}"
                raise errors.FrameError(problem)
            end = start + HEADER.size + length
            if len(self._buffer) < end:
                break
            found.append(
                Frame(stream, kind, flags, bytes(self._buffer[start + HEADER.size : end]))
            )
            start = end
        del self._buffer[:start]
        return found
