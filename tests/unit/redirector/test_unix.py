"""Unix sockets and their peers."""

from __future__ import annotations

import os
import socket
import struct

import pytest

from redirector import unix


def inode(sock: socket.socket) -> int:
    """A socket's number."""
    return os.fstat(sock.fileno()).st_ino


def test_pairs_know_each_other() -> None:
    """Both ends of a socket pair, of any type."""
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_SEQPACKET):
        one, other = socket.socketpair(socket.AF_UNIX, kind)
        with one, other:
            table = unix.here()
            assert table[inode(one)] == unix.Unix(kind, inode(other), "")
            assert table[inode(other)].peer == inode(one)


def test_names_are_told() -> None:
    """An abstract one with an at sign."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
        server.bind(f"\0zeropod-unix-{os.getpid()}")
        assert unix.here()[inode(server)].name == f"@zeropod-unix-{os.getpid()}"
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as client:
            client.connect(server.getsockname())
            table = unix.here()
            assert table[inode(client)].peer == inode(server)
            assert table[inode(server)].peer == 0


def test_a_refusal_of_the_kernel_is_an_error() -> None:
    """NLMSG_ERROR carries a negative errno."""
    message = struct.pack("=IHHIIi", 20, 2, 0, 0, 0, -2)
    with pytest.raises(OSError, match="No such file"):
        list(unix.parse(message))
