"""A TCP connection on which lines go both ways, and what hangs up by itself at the end of a `with`."""

from __future__ import annotations

import socket
from typing import Self

from dev import patience


class Closing:
    """Something to close when its context ends."""

    def close(self) -> None:
        """Give up what it has."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Lines(Closing):
    """A client's connection."""

    def __init__(self, address: str, port: int, timeout: float) -> None:
        self.timeout = patience.seconds(timeout)
        self.sock = socket.create_connection((address, port), self.timeout)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.lines = self.sock.makefile("rb")

    def write(self, line: str) -> None:
        """Send a line."""
        self.sock.sendall(line.encode() + b"\n")

    def read(self) -> str:
        """The next line that comes, without its end.

        Raises:
            ConnectionError: the connection was closed instead.
        """
        line = self.lines.readline()
        if not line.endswith(b"\n"):
            raise ConnectionError(f"the application has closed the connection after {line!r}")
        return line.decode().strip()

    def quiet(self) -> bool:
        """Whether nothing has come: no line, no end, no reset."""
        self.sock.setblocking(False)
        try:
            self.sock.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return True
        finally:
            self.sock.settimeout(self.timeout)
        return False

    def close(self) -> None:
        """Hang up."""
        self.lines.close()
        self.sock.close()

    def reset(self) -> None:
        """Hang up with an RST."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self.close()
