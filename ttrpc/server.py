"""Serving calls over streams.

A handler is an async function of the request message and a `Context` that returns the reply
message. It may raise `TtrpcError`; anything else it raises is logged and answered as UNKNOWN.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import pathlib
import secrets
import socket
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from ttrpc import envelope, errors, frames, messages, streams

_log = logging.getLogger(__name__)

CONCURRENCY = 256
"""Calls of one connection that are served at once; further ones wait unread in the socket."""


@dataclass(frozen=True, slots=True)
class Context:
    """What a handler may know of a call besides its request.

    Attributes:
        timeout: seconds the caller waits from `received` on; None: for ever.
        metadata: the caller's.
        received: when the call arrived, `time.monotonic()`.
    """

    timeout: float | None = None
    metadata: envelope.Metadata = field(default_factory=dict)
    received: float = field(default_factory=time.monotonic)

    def remaining(self) -> float | None:
        """Return the seconds until the caller gives up (negative: it has), None: never."""
        if self.timeout is None:
            return None
        return self.received + self.timeout - time.monotonic()


Handler: TypeAlias = Callable[[Any, Context], Awaitable[messages.Message]]


class Services:
    """The methods that a server offers."""

    def __init__(self) -> None:
        self._methods: dict[tuple[str, str], tuple[messages.MessageClass, Handler]] = {}

    def add(
        self, service: str, method: str, request: messages.MessageClass, handler: Handler
    ) -> None:
        """Offer `method` of `service` (full protobuf name), which takes a `request` message."""
        self._methods[service, method] = (request, handler)

    async def dispatch(self, call: envelope.Request) -> bytes:
        """Run the handler of `call` within its time-out and return the bytes of the reply.

        Raises:
            TtrpcError: the only exception besides cancellation.
        """
        try:
            kind, handler = self._methods[call.service, call.method]
        except KeyError:
            problem = f"{call.service}/{call.method} is not implemented"
            raise errors.TtrpcError(errors.Code.UNIMPLEMENTED, problem) from None
        context = Context(call.timeout, call.metadata)
        try:
            request = kind.FromString(call.payload)
        except messages.DecodeError as error:
            problem = f"malformed request of {call.service}/{call.method}: {error}"
            raise errors.TtrpcError(errors.Code.INVALID_ARGUMENT, problem) from error
        limit = asyncio.timeout(call.timeout)
        try:
            async with limit:
                return messages.encode(await handler(request, context))
        except errors.TtrpcError:
            raise
        except Exception as error:
            if limit.expired():
                problem = f"{call.service}/{call.method} took over {call.timeout:g} s"
                raise errors.TtrpcError(errors.Code.DEADLINE_EXCEEDED, problem) from error
            _log.exception("%s/%s failed", call.service, call.method)
            problem = f"{type(error).__name__}: {error}"
            raise errors.TtrpcError(errors.Code.UNKNOWN, problem) from error


class Connection:
    """The serving side of one connection.

    Go's rules (containerd/ttrpc, server.go): stream ids are odd and rise; whoever breaks them
    gets INVALID_ARGUMENT; frames of unknown type are ignored.
    """

    def __init__(self, stream: streams.Stream, services: Services) -> None:
        self._stream = stream
        self._services = services
        self._last = 0
        self._calls: set[asyncio.Task[None]] = set()
        self._slots = asyncio.Semaphore(CONCURRENCY)

    async def serve(self) -> None:
        """Serve until the other side closes or sends what is no frame; then cancel the calls."""
        decoder = frames.Decoder()
        try:
            while data := await self._stream.read():
                for frame in decoder.feed(data):
                    await self._accept(frame)
        except errors.TtrpcError as error:
            _log.debug("connection of server broke: %s", error)
        finally:
            for task in self._calls:
                task.cancel()
            if self._calls:
                await asyncio.wait(self._calls)
            await self._stream.close()

    async def drain(self) -> None:
        """Wait until the calls under way are answered."""
        if self._calls:
            await asyncio.wait(self._calls)

    async def _accept(self, frame: frames.Frame) -> None:
        problem = None
        if frame.kind not in {frames.Kind.REQUEST, frames.Kind.DATA}:
            return
        if frame.kind == frames.Kind.DATA or frame.flags & frames.REMOTE_OPEN:
            problem = "streaming is not supported"
        elif frame.stream % 2 == 0:
            problem = "StreamID must be odd for client initiated streams"
        elif frame.stream <= self._last:
            problem = "StreamID cannot be used again and must increment"
        if problem is not None:
            body = envelope.pack_error(errors.Code.INVALID_ARGUMENT, problem)
            await self._send(frame.stream, body)
            return
        self._last = frame.stream
        await self._slots.acquire()
        task = asyncio.create_task(self._answer(frame), name=f"ttrpc-call-{frame.stream}")
        self._calls.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._calls.discard(task)
        self._slots.release()

    async def _answer(self, frame: frames.Frame) -> None:
        try:
            call = envelope.unpack_request(frame.body)
            body = envelope.pack_response(await self._services.dispatch(call))
        except errors.TtrpcError as error:
            body = envelope.pack_error(error.code, error.message)
        try:
            await self._send(frame.stream, body)
        except errors.TtrpcError as error:
            # Too long: the caller must hear of it. Broken: `serve` finds that out by itself.
            if error.code is errors.Code.RESOURCE_EXHAUSTED:
                with contextlib.suppress(errors.TtrpcError):
                    await self._send(frame.stream, envelope.pack_error(error.code, error.message))

    async def _send(self, stream: int, body: bytes) -> None:
        await self._stream.write(frames.encode(stream, frames.Kind.RESPONSE, body))


class Server:
    """Serves connections to a unix socket."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._listener: asyncio.Server | None = None
        self._path: pathlib.Path | None = None
        self._inode = 0
        self._connections: dict[asyncio.Task[None], Connection] = {}

    async def serve_unix(self, path: str | pathlib.Path, *, mode: int = 0o600) -> None:
        """Listen at `path` and serve in the background.

        The socket gets its mode before it gets its name, so nobody can connect in between; what
        stood at `path`, such as the socket of a process that died, is replaced in one step.

        Raises:
            TtrpcError: the socket cannot be made.
        """
        self._path = pathlib.Path(path)
        try:
            listener = _bind(self._path, mode)
            self._inode = self._path.stat().st_ino
            self._listener = await asyncio.start_unix_server(self._connected, sock=listener)
        except OSError as error:
            problem = f"cannot listen at {path}: {error.strerror}"
            raise errors.closed(problem) from error

    async def close(self, *, grace: float = 1.0) -> None:
        """Stop listening, let calls under way finish for `grace` seconds, end all connections."""
        if self._listener is not None:
            self._listener.close()
        self._unlink()
        calls = [connection.drain() for connection in self._connections.values()]
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asyncio.gather(*calls), grace)
        tasks = list(self._connections)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = Connection(streams.SocketStream(reader, writer), self._services)
        task = asyncio.create_task(connection.serve(), name="ttrpc-connection")
        self._connections[task] = connection
        task.add_done_callback(lambda done: self._connections.pop(done, None))

    def _unlink(self) -> None:
        """Remove our socket's name, unless a successor has taken it over already."""
        if self._path is None:
            return
        with contextlib.suppress(OSError):
            if self._path.stat().st_ino == self._inode:
                self._path.unlink()


def _bind(path: pathlib.Path, mode: int) -> socket.socket:
    # Short, since the whole path must fit into 108 bytes.
    temporary = path.with_name(f".{secrets.token_hex(3)}")
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.bind(os.fspath(temporary))
        try:
            temporary.chmod(mode)
            listener.listen(socket.SOMAXCONN)
            temporary.rename(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    except BaseException:
        listener.close()
        raise
    return listener
