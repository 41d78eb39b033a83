"""One call after the other without an event loop, for command line programs.

Importing asyncio alone takes longer than such a program's whole work.
"""

from __future__ import annotations

import os
import pathlib
import socket
import time
from typing import Self, TypeVar

from ttrpc import envelope, errors, frames, messages

M = TypeVar("M", bound=messages.Message)


class Client:
    """A connection to a unix socket; a context manager.

    After a call that timed out or broke the client is of no use any more.
    """

    def __init__(self, path: str | pathlib.Path, *, timeout: float = 5.0) -> None:
        """Connect.

        Args:
            path: of the socket.
            timeout: seconds, for the connection and for each call that names none.

        Raises:
            TtrpcError: UNAVAILABLE, nobody listens there or it may not be opened.
        """
        self._timeout = timeout
        self._next = 1
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(timeout)
        try:
            self._socket.connect(os.fspath(path))
        except OSError as error:
            self._socket.close()
            reason = error.strerror or "timed out"
            problem = f"cannot connect to {path}: {reason}"
            raise errors.closed(problem) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the connection."""
        self._socket.close()

    def call(
        self,
        service: str,
        method: str,
        request: messages.Message,
        reply: type[M],
        *,
        timeout: float | None = None,
    ) -> M:
        """Call `method` of `service` and return its reply.

        Raises:
            TtrpcError: whatever the server answered; DEADLINE_EXCEEDED; UNAVAILABLE.
        """
        limit = self._timeout if timeout is None else timeout
        payload = messages.encode(request)
        body = envelope.pack_request(envelope.Request(service, method, payload, limit, {}))
        stream = self._next
        self._next += 2
        try:
            self._socket.settimeout(limit)
            self._socket.sendall(frames.encode(stream, frames.Kind.REQUEST, body))
            answer = self._receive(stream, time.monotonic() + limit)
        except TimeoutError as error:
            problem = f"no answer to {service}/{method} within {limit:g} s"
            raise errors.TtrpcError(errors.Code.DEADLINE_EXCEEDED, problem) from error
        except OSError as error:
            problem = f"connection broke: {error}"
            raise errors.closed(problem) from error
        try:
            return reply.FromString(envelope.unpack_response(answer))
        except messages.DecodeError as error:
            problem = f"malformed reply of {service}/{method}: {error}"
            raise errors.TtrpcError(errors.Code.INTERNAL, problem) from error

    def _receive(self, stream: int, deadline: float) -> bytes:
        decoder = frames.Decoder()
        while True:
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                raise TimeoutError
            self._socket.settimeout(remaining)
            data = self._socket.recv(256 << 10)
            if not data:
                raise errors.closed("connection closed")
            for frame in decoder.feed(data):
                if frame.kind == frames.Kind.RESPONSE and frame.stream == stream:
                    return frame.body
