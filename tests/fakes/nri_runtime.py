"""A scripted NRI runtime: the other end of a plugin's socket, with the rules of Go's receiver."""

import asyncio
import itertools
import struct

from nri_plugin import api, mux
from ttrpc import envelope, errors, frames, messages

HEADER = struct.Struct(">II")
BUFFER = 4096


class GoReceiver:
    """What bufio and the multiplexer of NRI do with one stream: a frame has to fit.

    A frame is read into a buffer of 4096 bytes, or, while at least as much of a message's body is
    outstanding, straight into the body. If it does not fit, the read fails with ENOMEM.
    """

    def __init__(self):
        self.decoder = frames.Decoder()
        self.outstanding = 0
        self.seen = bytearray()

    def feed(self, frame):
        room = max(self.outstanding, BUFFER)
        if len(frame) > room:
            raise MemoryError(f"frame of {len(frame)} bytes, room for {room}")
        found = self.decoder.feed(frame)
        self.seen += frame
        while len(self.seen) >= frames.HEADER.size:
            size = frames.HEADER.size + frames.HEADER.unpack_from(self.seen)[0]
            if len(self.seen) < size:
                break
            del self.seen[:size]
        held = len(self.seen)
        has_header = held >= frames.HEADER.size
        self.outstanding = (
            frames.HEADER.size + frames.HEADER.unpack_from(self.seen)[0] - held
            if has_header
            else 0
        )
        return found


class Runtime:
    """Speaks for the runtime on an accepted connection."""

    def __init__(self, reader, writer):
        self.reader, self.writer = reader, writer
        self.receivers = {mux.PLUGIN: GoReceiver(), mux.RUNTIME: GoReceiver()}
        self.inbox = {mux.PLUGIN: asyncio.Queue(), mux.RUNTIME: asyncio.Queue()}
        self.ids = itertools.count(1, 2)
        self.broken = None
        self.pump = asyncio.create_task(self._pump())

    async def _pump(self):
        try:
            while True:
                stream, size = HEADER.unpack(await self.reader.readexactly(HEADER.size))
                for frame in self.receivers[stream].feed(await self.reader.readexactly(size)):
                    self.inbox[stream].put_nowait(frame)
        except (asyncio.IncompleteReadError, OSError, MemoryError) as error:
            self.broken = error
            for inbox in self.inbox.values():
                inbox.put_nowait(None)

    def send(self, stream, message, *, cut=None):
        """Write one ttRPC message; `cut`: into frames of that many bytes, default as Go does."""
        cuts = [message[:BUFFER], message[BUFFER:]]
        if cut is not None:
            cuts = [message[start : start + cut] for start in range(0, len(message), cut)]
        for part in cuts:
            if part:
                self.writer.write(HEADER.pack(stream, len(part)) + part)

    def request(self, method, request, *, timeout=2.0):
        """Return the bytes of a call and its stream id."""
        stream = next(self.ids)
        payload = messages.encode(request)
        body = envelope.pack_request(
            envelope.Request(api.PLUGIN_SERVICE, method, payload, timeout, {})
        )
        message = frames.HEADER.pack(len(body), stream, frames.Kind.REQUEST, 0) + body
        return stream, message

    async def answer(self, stream, reply):
        """Return the reply to the call `stream`; None: the connection ended instead."""
        frame = await asyncio.wait_for(self.inbox[mux.PLUGIN].get(), 30)
        if frame is None:
            return None
        assert (frame.stream, frame.kind) == (stream, frames.Kind.RESPONSE)
        return reply.FromString(envelope.unpack_response(frame.body))

    async def call(self, method, request, reply=api.Empty, *, timeout=2.0, cut=None):
        """Call the plugin as the runtime does."""
        stream, message = self.request(method, request, timeout=timeout)
        self.send(mux.PLUGIN, message, cut=cut)
        return await self.answer(stream, reply)

    async def registration(self):
        """Return the plugin's RegisterPlugin and its stream id, unanswered."""
        frame = await asyncio.wait_for(self.inbox[mux.RUNTIME].get(), 30)
        call = envelope.unpack_request(frame.body)
        assert (call.service, call.method) == (api.RUNTIME_SERVICE, "RegisterPlugin")
        return frame.stream, api.RegisterPluginRequest.FromString(call.payload)

    def accept(self, stream):
        """Answer a registration."""
        self.send(mux.RUNTIME, frames.encode(stream, frames.Kind.RESPONSE, b""))

    def refuse(self, stream, text):
        """Refuse a registration."""
        body = envelope.pack_error(errors.Code.UNKNOWN, text)
        self.send(mux.RUNTIME, frames.encode(stream, frames.Kind.RESPONSE, body))

    async def handshake(self, pods=(), containers=()):
        """Do what every runtime does first; return the mask of events."""
        stream, _ = await self.registration()
        self.accept(stream)
        configure = api.ConfigureRequest(runtime_name="containerd", runtime_version="1.7.24")
        mask = (await self.call("Configure", configure, api.ConfigureResponse)).events
        everything = api.SynchronizeRequest(pods=pods, containers=containers)
        await self.call("Synchronize", everything, api.SynchronizeResponse)
        return mask

    async def ended(self):
        """Wait until the plugin has closed the connection."""
        await asyncio.wait_for(asyncio.wait([self.pump]), 30)

    async def close(self):
        """Hang up."""
        self.writer.close()
        self.pump.cancel()
        await asyncio.wait([self.pump])
