"""What is left out of an image: the cgroups of a tree that lives in one set of them."""

import struct

import pytest

from checkpointer import held, trim

MAGIC = struct.pack("<II", 0x54564319, 0x59383330)


def image(count):
    """A cgroup.img with so many sets."""
    entry = held.messages().cgroup_entry()
    for number in range(count):
        entry.sets.add(id=number + 1).ctls.add(name="memory", path="/pod")
    body = entry.SerializeToString()
    return MAGIC + struct.pack("<I", len(body)) + body


def test_one_set_is_left_out(tmp_path):
    """An image that says nothing of cgroups lets criu do nothing about them."""
    path = tmp_path / "cgroup.img"
    path.write_bytes(image(1))
    trim.trim(tmp_path)
    assert path.read_bytes() == MAGIC


@pytest.mark.parametrize("data", [image(2), MAGIC, b"", b"else" + image(1)])
def test_anything_else_stays(tmp_path, data):
    """A task in a set of its own needs criu; what is not known is not touched."""
    path = tmp_path / "cgroup.img"
    path.write_bytes(data)
    trim.trim(tmp_path)
    assert path.read_bytes() == data
