"""Calls over a stream, many at once."""

from __future__ import annotations

import asyncio
import logging
import pathlib
from typing import TypeVar

from ttrpc import envelope, errors, frames, messages, streams

_log = logging.getLogger(__name__)

M = TypeVar("M", bound=messages.Message)


async def connect_unix(path: str | pathlib.Path) -> Client:
    """Return a client that is connected to a unix socket.

    Raises:
        TtrpcError: UNAVAILABLE, nobody listens at `path`; DEADLINE_EXCEEDED.
    """
    return Client(await streams.connect_unix(path))


class Client:
    """The calling side of one connection; use inside a running event loop.

    Every call has a stream id of its own, so answers may come in any order. When the connection
    ends, all pending calls fail with UNAVAILABLE.
    """

    def __init__(self, stream: streams.Stream) -> None:
        self._stream = stream
        self._next = 1
        self._pending: dict[int, asyncio.Future[bytes]] = {}
        self._closed: errors.TtrpcError | None = None
        self._reader = asyncio.create_task(self._read(), name="ttrpc-client")

    async def call(
        self,
        service: str,
        method: str,
        request: messages.Message,
        reply: type[M],
        *,
        timeout: float | None = None,
        metadata: envelope.Metadata | None = None,
    ) -> M:
        """Call `method` of `service` and return its reply.

        Args:
            service: full protobuf name.
            method: bare name.
            request: the request message.
            reply: class of the reply message.
            timeout: seconds; told to the server and kept here. None waits for ever.
            metadata: for the server's handler.

        Raises:
            TtrpcError: whatever the server answered; DEADLINE_EXCEEDED; UNAVAILABLE.
        """
        payload = messages.encode(request)
        wrapped = envelope.Request(service, method, payload, timeout, metadata or {})
        try:
            async with asyncio.timeout(timeout):
                answer = envelope.unpack_response(await self._exchange(wrapped))
        except TimeoutError as error:
            problem = f"no answer to {service}/{method} within {timeout:g} s"
            raise errors.TtrpcError(errors.Code.DEADLINE_EXCEEDED, problem) from error
        try:
            return reply.FromString(answer)
        except messages.DecodeError as error:
            problem = f"malformed reply of {service}/{method}: {error}"
            raise errors.TtrpcError(errors.Code.INTERNAL, problem) from error

    async def wait_closed(self) -> None:
        """Return when the connection has ended, whoever ended it."""
        await asyncio.wait([self._reader])

    async def close(self) -> None:
        """End the connection; pending calls fail with UNAVAILABLE."""
        await self._stream.close()
        self._reader.cancel()
        await asyncio.wait([self._reader])

    async def _exchange(self, request: envelope.Request) -> bytes:
        if self._closed is not None:
            raise self._closed
        # Ids must reach the server in rising order: nothing may be awaited between choosing one
        # and handing the frame over, and `Stream.write` queues before it waits.
        stream = self._next
        message = frames.encode(stream, frames.Kind.REQUEST, envelope.pack_request(request))
        self._next += 2
        answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._pending[stream] = answer
        try:
            await self._stream.write(message)
            return await answer
        finally:
            del self._pending[stream]
            if answer.done() and not answer.cancelled():
                answer.exception()  # seen, even if the write failed first

    async def _read(self) -> None:
        decoder = frames.Decoder()
        reason = errors.closed("connection closed")
        try:
            while data := await self._stream.read():
                for frame in decoder.feed(data):
                    self._deliver(frame)
        except errors.TtrpcError as error:
            _log.debug("connection of client broke: %s", error)
            reason = error
        finally:
            self._closed = reason
            for answer in self._pending.values():
                if not answer.done():
                    answer.set_exception(errors.closed(reason.message))
            await self._stream.close()

    def _deliver(self, frame: frames.Frame) -> None:
        answer = self._pending.get(frame.stream)
        # Unknown ids are answers to calls that were cancelled or timed out.
        if frame.kind == frames.Kind.RESPONSE and answer is not None and not answer.done():
            answer.set_result(frame.body)
