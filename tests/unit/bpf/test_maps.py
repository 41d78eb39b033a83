"""The packing of every map against the C that it mirrors, without a compiler."""

from __future__ import annotations

import re

import pytest

from bpf import maps, pins

HEADER = (pins.SOURCES / "maps.h").read_text()
SCALARS = {"u8": 1, "u16": 2, "u32": 4, "u64": 8, "char": 1}


def defined(name: str) -> int:
    """Return the value of a #define of maps.h."""
    found = re.search(rf"#define {name} (\S+)", HEADER)
    assert found
    return int(found[1].rstrip("u"), 0)


def layout_of(kind: str) -> tuple[int, int]:
    """Return size and alignment of a C type, as every 64-bit ABI lays it out."""
    if kind in SCALARS:
        return SCALARS[kind], SCALARS[kind]
    body = re.search(rf"^{kind} \{{(.*?)^\}};", HEADER, re.DOTALL | re.MULTILINE)
    assert body, kind
    size, alignment = 0, 1
    for field in re.finditer(r"^ +((?:struct )?\w+) \w+(?:\[(\w+)\])?;", body[1], re.MULTILINE):
        one, align = layout_of(field[1])
        count = field[2] or "1"
        size += -size % align
        size += one * (int(count) if count.isdigit() else defined(count))
        alignment = max(alignment, align)
    return size + -size % alignment, alignment


def test_every_map_is_packed_as_the_header_declares_it():
    """Key and value have the compiler's sizes, and no map is left out on either side."""
    declared = {
        name: (layout_of(key)[0], layout_of(value)[0])
        for name, key, value in re.findall(
            r'BPF_F_TABLE\("\w+:" MAPS "/(\w+)", ([\w ]+), ([\w ]+), \w+,', HEADER
        )
    }
    packed = {layout.name: (layout.key.size, layout.value.size) for layout in maps.LAYOUTS}
    assert packed == declared


@pytest.mark.parametrize(
    "name",
    [
        "CAME",
        "WENT",
        "MAX_HOLDS",
        "MAX_IFACES",
        "MODE_OFF",
        "MODE_SYNS",
        "MODE_EVERYTHING",
        "MODE_SET",
        "MODE_LIVE",
        "MODE_SCOPE",
        "MODE_DRAIN",
    ],
)
def test_constants_are_the_headers(name: str):
    """What Python calls a mode or a bound is what the programs call so."""
    assert getattr(maps, name) == defined(name)


@pytest.mark.parametrize(
    ("text", "packed"),
    [
        ("10.0.0.1", bytes(10) + b"\xff\xff\x0a\x00\x00\x01"),
        ("::ffff:10.0.0.1", bytes(10) + b"\xff\xff\x0a\x00\x00\x01"),
        ("fe80::1%eth0", b"\xfe\x80" + bytes(13) + b"\x01"),
        ("::1", bytes(15) + b"\x01"),
    ],
)
def test_an_address_has_one_packed_form(text: str, packed: bytes):
    """IPv4, its mapped form and scoped addresses end up as the programs see them in a packet."""
    assert maps.pack_address(text) == packed


@pytest.mark.parametrize("text", ["10.0.0.1", "::1", "fd00::10"])
def test_an_address_survives_the_round_trip(text: str):
    """Unpacking what was packed gives the same text."""
    assert maps.unpack_address(maps.pack_address(text)) == text
