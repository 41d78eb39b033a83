"""What the network has to be held for while a container sleeps, read from its image.

The image is the authority: it is what will be restored. Sockets seen in /proc a moment earlier may have changed.
"""

from __future__ import annotations

import dataclasses
import functools
import ipaddress
import socket
import struct
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from checkpointer.errors import ImageError, Missing
from redirector.endpoints import Connection, Port

_LISTEN = 10  # net/tcp_states.h; criu stores the kernel's numbers


@dataclasses.dataclass(frozen=True, slots=True)
class Held:
    """Ports and connections of an image."""

    ports: frozenset[Port]
    connections: frozenset[Connection]


@functools.cache
def _images() -> Any:
    """Import pycriu.images; it appends its own directory, full of general names, to sys.path."""
    path = list(sys.path)
    try:
        import pycriu.images  # noqa: PLC0415 - only a daemon that reads images needs it
    except ImportError as error:
        raise Missing("pycriu is missing: install Debian's python3-pycriu") from error
    finally:
        sys.path[:] = path
    return pycriu.images


def _address(family: int, words: Iterable[int]) -> str:
    """Return an address that criu stored as 32-bit words in network order; mapped IPv4 as IPv4."""
    raw = b"".join(struct.pack("=I", word) for word in words)
    if family == socket.AF_INET:
        return str(ipaddress.IPv4Address(raw[:4]))
    address = ipaddress.IPv6Address(raw[:16])
    return str(address.ipv4_mapped or address)


def of(sockets: Iterable[dict[str, Any]]) -> Held:
    """Sort inet sockets, as criu's `isk` entries describe them, into ports and connections."""
    ports, connections = set(), set()
    for isk in sockets:
        family, local, remote = isk["family"], isk["src_port"], isk["dst_port"]
        if isk["proto"] == socket.IPPROTO_UDP and local:
            ports.add(Port("udp", local))
        elif isk["proto"] == socket.IPPROTO_TCP and isk["state"] == _LISTEN:
            ports.add(Port("tcp", local))
        elif isk["proto"] == socket.IPPROTO_TCP and local and remote:
            ends = (
                _address(family, isk["src_addr"]),
                local,
                _address(family, isk["dst_addr"]),
                remote,
            )
            connections.add(Connection(*ends))
    return Held(frozenset(ports), frozenset(connections))


def read(directory: Path) -> Held:
    """Read the held set from an image directory.

    Raises:
        ImageError: files.img is missing or not one of criu's.
        Missing: pycriu is not installed.
    """
    try:
        with (directory / "files.img").open("rb") as file:
            loaded = _images().load(file, pretty=False, no_payload=True)
        entries = [entry["isk"] for entry in loaded["entries"] if "isk" in entry]
    except (OSError, KeyError, ValueError) as error:
        raise ImageError(
            f"cannot read the sockets in {directory / 'files.img'}: {error}"
        ) from error
    return of(entries)
