"""The multiplexer: any cut of two interleaved streams, and a send rule that Go's receiver needs."""

import asyncio
import random
import socket

import pytest
from fakes import nri_runtime

from nri_plugin import mux
from ttrpc import streams


def ttrpc_message(size):
    """A whole ttRPC frame of `size` bytes in all."""
    return (size - 10).to_bytes(4, "big") + bytes.fromhex("00000001 02 00") + bytes(size - 10)


def frames_of(wire):
    found = []
    while wire:
        stream, size = nri_runtime.HEADER.unpack_from(wire)
        found.append((stream, wire[8 : 8 + size]))
        wire = wire[8 + size :]
    return found


def test_a_frame_has_nris_header():
    """Stream id and length, big-endian, then the bytes."""
    assert mux.encode(2, b"abc") == bytes.fromhex("00000002 00000003") + b"abc"


@pytest.mark.parametrize("size", [10, 4095, 4096, 4097, 8191, 8192, 8193, 100_000, 4 << 20])
def test_what_we_send_fits_gos_receiver(size):
    """At most 4096 bytes, then all the rest: the only split that never breaks the connection."""
    receiver = nri_runtime.GoReceiver()
    found = []
    for _ in range(3):
        for stream, frame in frames_of(mux.encode(mux.PLUGIN, ttrpc_message(size))):
            assert stream == mux.PLUGIN
            found += receiver.feed(frame)
    assert [len(frame.body) for frame in found] == [size - 10] * 3


def test_the_receivers_rule_refuses_what_breaks_real_connections():
    """The fake is worth something: one frame of 5000 bytes is an error for it, as for Go."""
    with pytest.raises(MemoryError):
        nri_runtime.GoReceiver().feed(ttrpc_message(5000))


@pytest.mark.parametrize("seed", range(10))
def test_interleaved_streams_are_told_apart_at_any_cut(seed):
    """Frames of two streams, cut anywhere, zero-length and unknown ones among them."""
    source = random.Random(seed)
    sent = {1: b"", 2: b"", 77: b""}
    wire = b""
    for _ in range(200):
        stream = source.choice(list(sent))
        part = source.randbytes(source.choice([0, 1, 7, 4096, 9000]))
        sent[stream] += part
        wire += nri_runtime.HEADER.pack(stream, len(part)) + part
    decoder = mux.Decoder()
    found = {1: b"", 2: b"", 77: b""}
    while wire:
        cut = source.randrange(1, 5000)
        for stream, chunk in decoder.feed(wire[:cut]):
            found[stream] += chunk
        wire = wire[cut:]
    assert found == sent


async def connected():
    ours, theirs = socket.socketpair()
    reader, writer = await asyncio.open_connection(sock=theirs)
    muxed = mux.Mux(streams.SocketStream(reader, writer))
    return muxed, asyncio.create_task(muxed.run()), await asyncio.open_connection(sock=ours)


async def test_both_streams_end_with_the_socket():
    """What arrived before the end is delivered, then both readers see it."""
    muxed, running, (_, writer) = await connected()
    writer.write(mux.encode(mux.PLUGIN, b"last words") + mux.encode(9, b"unknown"))
    writer.close()
    await asyncio.wait_for(running, 30)
    assert await muxed.plugin.read() == b"last words"
    assert await muxed.plugin.read() == b""
    assert await muxed.runtime.read() == b""


async def test_a_slow_reader_bounds_what_is_kept():
    """The socket is not read while a stream's reader is behind, and nothing is lost."""
    muxed, running, (_, writer) = await connected()
    total = 20 << 20
    writer.write(nri_runtime.HEADER.pack(1, total) + bytes(total))
    await asyncio.sleep(0.1)
    assert muxed.plugin._size <= 2 << 20
    received = 0
    while received < total:
        received += len(await asyncio.wait_for(muxed.plugin.read(), 30))
    assert received == total
    writer.close()
    await running
