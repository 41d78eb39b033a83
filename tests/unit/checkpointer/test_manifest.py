"""What an image says about itself, written and read."""

from __future__ import annotations

import dataclasses
import json

import pytest
from unit.checkpointer.imaged import facts

from checkpointer import manifest, seal
from checkpointer.errors import ImageError
from checkpointer.kinds import Kind
from checkpointer.manifest import Manifest


def test_a_manifest_reads_back_as_it_was() -> None:
    """Encoding and decoding loses nothing."""
    assert Manifest.decode(facts().encode()) == facts()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"null",
        b"[]",
        b"{}",
        b'{"version": 1}',
        b'{\n"version": 1}',
        b'{"version": 2}\n{}',
        b'{"version": 2, "digest": ""}\n{}',
        facts().encode()[:-3],
        facts().encode().replace(b"4711", b"4712"),
        b"\xff\xfe",
    ],
)
def test_a_damaged_manifest_is_an_image_error(data: bytes) -> None:
    """Whatever is wrong with a manifest is said as an image's error."""
    with pytest.raises(ImageError):
        Manifest.decode(data)


@pytest.mark.parametrize("version", [0, 3])
def test_a_manifest_of_an_unknown_version_is_refused(version: int) -> None:
    """Another program's idea of a manifest is not guessed at; the reason says what to do."""
    data = facts().encode().replace(b'"version": 2', b'"version": %d' % version)
    with pytest.raises(ImageError, match="install that version again") as caught:
        Manifest.decode(data)
    assert caught.value.kind is Kind.IMAGE_VERSION


def test_a_manifest_of_the_first_version_is_read() -> None:
    """It had no digests, and was one object: a container that sleeps through an upgrade wakes."""
    plain = json.loads(facts().encode().partition(b"\n")[2])
    del plain["files"]
    old = json.dumps({**plain, "version": 1}, indent=1).encode()
    assert Manifest.decode(old) == dataclasses.replace(facts(), files={})


def test_what_a_manifest_says_beyond_is_passed_over() -> None:
    """A later program may say more in the same version; one before it goes on with what it knows."""
    plain = json.loads(facts().encode().partition(b"\n")[2])
    body = json.dumps({**plain, "later": [1]}).encode()
    head = {"version": manifest.VERSION, "digest": seal.digest(body)}
    assert Manifest.decode(json.dumps(head).encode() + b"\n" + body) == facts()
