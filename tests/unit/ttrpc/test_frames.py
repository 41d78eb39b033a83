"""Bytes to frames: any split gives the same frames, garbage ends in one kind of error."""

import random

import pytest

from ttrpc import errors, frames

REQUEST = frames.Kind.REQUEST


def test_a_frame_has_gos_header():
    """Length and stream id are big-endian, then type and flags: a capture of a Go client."""
    assert frames.encode(5, REQUEST, b"abc") == bytes.fromhex("00000003 00000005 01 00") + b"abc"


@pytest.mark.parametrize("size", [1, 2, 9, 10, 11, 4096, 1 << 20])
def test_frames_survive_any_split(size):
    """Frames are put together whatever the size of the chunks that arrive."""
    sent = [(1, b""), (3, b"x"), (5, b"y" * 4086), (7, b"z" * 100_000), (9, b"")]
    wire = b"".join(frames.encode(stream, REQUEST, body) for stream, body in sent)
    decoder = frames.Decoder()
    found = []
    for start in range(0, len(wire), size):
        found += decoder.feed(wire[start : start + size])
    assert [(frame.stream, frame.body) for frame in found] == sent


def test_more_than_gos_limit_is_accepted():
    """NRI 0.6 sends a Synchronize of 8 MB in one frame; rejecting it would lose the node."""
    body = bytes(8 << 20)
    wire = frames.encode(1, REQUEST, body, limit=frames.RECEIVE_LIMIT)
    assert frames.Decoder().feed(wire)[0].body == body


def test_more_than_gos_limit_is_not_sent():
    """Go's receiver refuses more than 4 MiB, so the caller gets the error instead."""
    frames.encode(1, REQUEST, bytes(frames.SEND_LIMIT))
    with pytest.raises(errors.TtrpcError) as caught:
        frames.encode(1, REQUEST, bytes(frames.SEND_LIMIT + 1))
    assert caught.value.code is errors.Code.RESOURCE_EXHAUSTED


def test_an_absurd_length_is_an_error_at_the_header():
    """A header alone decides; nothing of the announced 4 GB is waited for."""
    with pytest.raises(errors.FrameError, match="4294967295"):
        frames.Decoder().feed(bytes.fromhex("ffffffff 00000001 01 00"))


@pytest.mark.parametrize("seed", range(20))
def test_garbage_gives_frames_or_a_frame_error_and_bounded_memory(seed):
    """Random bytes never raise anything else, and never pile up beyond the limit."""
    source = random.Random(seed)
    decoder = frames.Decoder(limit=1 << 16)
    try:
        for _ in range(200):
            for frame in decoder.feed(source.randbytes(source.randrange(1, 5000))):
                assert len(frame.body) <= 1 << 16
            assert len(decoder._buffer) <= (1 << 16) + frames.HEADER.size + 5000
    except errors.FrameError:
        pass
