"""One connection of the kubelet's to an application that sleeps: answered, or passed on to the application, which wakes it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
from collections.abc import Callable

from redirector import probes
from redirector.health import Health
from redirector.maker import Maker
from redirector.probes import Answer, Opening, Rules

log = logging.getLogger("responder")

GOODBYE = 10.0
"""Seconds for the kubelet to close a connection that was answered. It does so at once; whoever closes first keeps the
connection in TIME_WAIT, and ours would have the application's port."""

_CHUNK = 1 << 16


class Conversation:
    """One connection of the kubelet's.

    Args:
        sock: Accepted and non-blocking; it stays the caller's to close.
        rules: What to say on a port of the application's.
        certificate: Of a TLS server; None: what comes in TLS is passed on.
        maker: Of sockets beside this one, by which it is passed on.
    """

    def __init__(
        self,
        sock: socket.socket,
        rules: Callable[[int], Rules],
        certificate: ssl.SSLContext | None,
        maker: Maker,
    ) -> None:
        self._sock = sock
        self._rules = rules
        self._maker = maker
        self._certificate = certificate
        self._loop = asyncio.get_running_loop()
        self._target = sock.getsockname()
        self._tls = False

    async def hold(self) -> None:
        """Hear what is asked, and answer or pass it on, until it is over."""
        await self._readable()
        first = self._sock.recv(1, socket.MSG_PEEK)
        if not first:
            return  # tcpSocket
        if self._certificate is not None and probes.opening(first) is Opening.TLS:
            self._tls = True
        reader, writer = await self._open(self._sock, server=True)
        try:
            await self._hear(reader, writer)
        finally:
            writer.close()
            with contextlib.suppress(OSError, TimeoutError):
                async with asyncio.timeout(GOODBYE):
                    await writer.wait_closed()
            writer.transport.abort()

    async def _readable(self) -> None:
        ready = asyncio.Event()
        self._loop.add_reader(self._sock, ready.set)
        try:
            await ready.wait()
        finally:
            self._loop.remove_reader(self._sock)

    async def _open(
        self, sock: socket.socket, *, server: bool
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Make streams of a connected socket, in TLS if the kubelet wants that."""
        reader = asyncio.StreamReader()
        protocol = asyncio.StreamReaderProtocol(reader)
        transport: asyncio.Transport
        if not self._tls:
            transport, _ = await self._loop.create_connection(lambda: protocol, sock=sock)
        elif server:
            transport, _ = await self._loop.connect_accepted_socket(
                lambda: protocol, sock, ssl=self._certificate
            )
        else:
            transport, _ = await self._loop.create_connection(
                lambda: protocol, sock=sock, ssl=_trusting(), server_hostname=""
            )
        return reader, asyncio.StreamWriter(transport, protocol, reader, self._loop)

    async def _hear(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        data = b""
        while (what := probes.opening(data)) is Opening.MORE:
            piece = await reader.read(_CHUNK)
            if not piece:
                return  # given up
            data += piece
        port = self._target[1]
        if what is Opening.HTTP:
            asked = probes.request(data)
            answer = probes.http(asked, port, self._rules(port), tls=self._tls)
            if answer is not Answer.FORWARD:
                writer.write(probes.http_answer(answer))
                await _end(reader)
                return
        elif what is Opening.H2:
            await self._health(data, reader, writer)
            return
        await self._pass_on(data, reader, writer)

    async def _health(
        self, data: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        port = self._target[1]
        health = Health(lambda path, service: probes.grpc(path, service, port, self._rules(port)))
        while data:
            writer.write(health.feed(data))
            await writer.drain()
            data = await reader.read(_CHUNK)

    async def _pass_on(
        self, data: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Connect to the application, which wakes it, and carry both ways for as long as both like."""
        # Not for every day: nobody rotates this log, which lies in memory.
        log.debug("passed on port=%d tls=%s", self._target[1], self._tls)
        sock = await self._dial()
        inner_reader, inner_writer = await self._open(sock, server=False)
        inner_writer.write(data)
        try:
            async with asyncio.TaskGroup() as both:
                both.create_task(_carry(reader, inner_writer))
                both.create_task(_carry(inner_reader, writer))
        except* OSError:
            # What one side gets the other one gets.
            writer.transport.abort()
            inner_writer.transport.abort()
        finally:
            inner_writer.close()

    async def _dial(self) -> socket.socket:
        while True:
            sock = self._maker.beside(self._sock)
            sock.setblocking(False)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            try:
                await self._loop.sock_connect(sock, self._target)
            except TimeoutError:
                sock.close()  # nobody wakes it now; the daemon may be away
            except BaseException:
                sock.close()
                raise
            else:
                return sock


async def _carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(_CHUNK):
        writer.write(data)
        await writer.drain()
    if writer.can_write_eof():
        writer.write_eof()
    else:
        writer.close()


async def _end(reader: asyncio.StreamReader) -> None:
    """Wait until the other side has closed."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(GOODBYE):
            while await reader.read(_CHUNK):
                continue


def _trusting() -> ssl.SSLContext:
    """As the kubelet: it verifies no certificate of a pod's."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context
