"""NRI's multiplexer: two byte streams on one unix socket (pkg/net/multiplex of containerd/nri).

A frame is the id of a stream and a length, both uint32 and big-endian, then bytes. Frames cut the
streams anywhere; nothing announces or ends a stream. Stream 1 carries the runtime's calls to us,
stream 2 ours to the runtime.
"""

from __future__ import annotations

import asyncio
import struct

from ttrpc import errors, streams

PLUGIN = 1
RUNTIME = 2

_HEADER = struct.Struct(">II")

FIRST_FRAME = 4096
"""Longest first frame of a message, bytes. Go reads every frame into a buffer of this size, unless
it is in the middle of a message that is longer than that: one frame of 5000 bytes breaks the
connection, and many small frames overrun its queue of 256. So: 4096 bytes, then all the rest."""

PENDING = 1 << 20
"""Bytes that may wait for their reader; past that the socket is not read. Bounds our memory."""


def encode(stream: int, message: bytes) -> bytes:
    """Return one whole ttRPC message, framed for the socket."""
    parts = (message[:FIRST_FRAME], message[FIRST_FRAME:])
    return b"".join(_HEADER.pack(stream, len(part)) + part for part in parts if part)


class Decoder:
    """Takes frames apart; what a frame holds is passed on as it comes, nothing is kept."""

    def __init__(self) -> None:
        self._header = bytearray()
        self._stream = 0
        self._left = 0

    def feed(self, data: bytes) -> list[tuple[int, bytes]]:
        """Return stream ids and bytes, in order."""
        found = []
        position = 0
        while position < len(data):
            if self._left == 0:
                wanted = _HEADER.size - len(self._header)
                self._header += data[position : position + wanted]
                position += wanted
                if len(self._header) == _HEADER.size:
                    self._stream, self._left = _HEADER.unpack(self._header)
                    self._header.clear()
                continue
            chunk = data[position : position + self._left]
            found.append((self._stream, chunk))
            self._left -= len(chunk)
            position += len(chunk)
        return found


class Mux:
    """Both streams of one socket. `run` must be running for them to receive."""

    def __init__(self, socket: streams.Stream) -> None:
        self._socket = socket
        self.plugin = Channel(PLUGIN, socket)
        self.runtime = Channel(RUNTIME, socket)

    async def run(self) -> None:
        """Distribute what arrives until the socket ends; then end both streams."""
        decoder = Decoder()
        channels = {channel.stream: channel for channel in (self.plugin, self.runtime)}
        try:
            while data := await self._socket.read():
                for stream, chunk in decoder.feed(data):
                    if stream in channels:  # others are dropped, as Go does
                        await channels[stream].put(chunk)
        except errors.TtrpcError:
            pass  # broken or ended: the streams end either way
        finally:
            for channel in channels.values():
                channel.end()
            await self._socket.close()


class Channel:
    """One of the streams, as ttRPC wants it."""

    def __init__(self, stream: int, socket: streams.Stream) -> None:
        self.stream = stream
        self._socket = socket
        self._waiting: list[bytes] = []
        self._size = 0
        self._ended = False
        self._arrived = asyncio.Event()
        self._taken = asyncio.Event()

    async def put(self, chunk: bytes) -> None:
        """Add what arrived; waits while the reader is behind."""
        self._waiting.append(chunk)
        self._size += len(chunk)
        self._arrived.set()
        while self._size > PENDING and not self._ended:
            self._taken.clear()
            await self._taken.wait()

    def end(self) -> None:
        """Let the reader come to its end."""
        self._ended = True
        self._arrived.set()
        self._taken.set()

    async def read(self) -> bytes:
        """See `ttrpc.streams.Stream`."""
        while not self._waiting and not self._ended:
            self._arrived.clear()
            await self._arrived.wait()
        data = b"".join(self._waiting)
        self._waiting.clear()
        self._size = 0
        self._taken.set()
        return data

    async def write(self, message: bytes) -> None:
        """See `ttrpc.streams.Stream`; both frames go out together, so none comes between."""
        await self._socket.write(encode(self.stream, message))

    async def close(self) -> None:
        """End the socket: a stream alone cannot be ended."""
        self.end()
        await self._socket.close()
