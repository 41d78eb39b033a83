"""What client and server need of a connection, and the connection most have: asyncio's streams."""

from __future__ import annotations

import asyncio
import pathlib
from typing import Protocol

from ttrpc import errors

CHUNK = 256 << 10
"""Bytes that are read at once; large messages arrive in few reads, small ones cost no memory."""


CONNECT_TIMEOUT = 5.0
"""Seconds; a local server accepts at once unless its queue of connections is full."""

FLUSH_TIMEOUT = 1.0
"""Seconds that closing waits for the other side to read what was sent."""


class Stream(Protocol):
    """A reliable stream of bytes in both directions."""

    async def read(self) -> bytes:
        """Return the next bytes, b"" at the end.

        Raises:
            TtrpcError: UNAVAILABLE, the connection broke.
        """
        ...

    async def write(self, message: bytes) -> None:
        """Send one whole message; no other message's bytes come between.

        Raises:
            TtrpcError: UNAVAILABLE, the connection broke.
        """
        ...

    async def close(self) -> None:
        """End the connection; a pending `read` returns. Never raises, may be called again."""
        ...


class SocketStream:
    """A `Stream` over an asyncio reader and writer."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def read(self) -> bytes:
        """See `Stream.read`."""
        try:
            return await self._reader.read(CHUNK)
        except OSError as error:
            problem = f"connection broke: {error}"
            raise errors.closed(problem) from error

    async def write(self, message: bytes) -> None:
        """See `Stream.write`; waits while the other side reads too slowly."""
        if self._writer.is_closing():
            raise errors.closed("connection is closed")
        self._writer.write(message)
        try:
            await self._writer.drain()
        except OSError as error:
            problem = f"connection broke: {error}"
            raise errors.closed(problem) from error

    async def close(self) -> None:
        """See `Stream.close`."""
        self._writer.close()
        try:
            async with asyncio.timeout(FLUSH_TIMEOUT):
                await self._writer.wait_closed()
        except TimeoutError:
            self._writer.transport.abort()
        except OSError:
            pass  # it was broken before; closed is what we wanted


async def connect_unix(path: str | pathlib.Path) -> SocketStream:
    """Connect to a unix socket.

    Raises:
        TtrpcError: UNAVAILABLE, nobody listens at `path`; DEADLINE_EXCEEDED.
    """
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT):
            reader, writer = await asyncio.open_unix_connection(path)
    except TimeoutError as error:
        problem = f"cannot connect to {path} within {CONNECT_TIMEOUT:g} s"
        raise errors.TtrpcError(errors.Code.DEADLINE_EXCEEDED, problem) from error
    except OSError as error:
        problem = f"cannot connect to {path}: {error.strerror}"
        raise errors.closed(problem) from error
    return SocketStream(reader, writer)
