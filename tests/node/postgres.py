"""PostgreSQL's wire protocol, as much as a client needs for simple queries (protocol-flow, version 3.0)."""

from __future__ import annotations

import socket
import struct
from typing import Self

PROTOCOL = 3 << 16


class PostgresError(Exception):
    """What the server, or a pooler in between, said."""


class Session:
    """One session of the user postgres."""

    def __init__(self, address: str, port: int, timeout: float) -> None:
        self._socket = socket.create_connection((address, port), timeout=timeout)
        self._stream = self._socket.makefile("rb")
        words = b"user\0postgres\0database\0postgres\0\0"
        self._socket.sendall(struct.pack(">II", 8 + len(words), PROTOCOL) + words)
        self._rows()

    def query(self, text: str) -> list[tuple[str | None, ...]]:
        """The rows that one statement returns."""
        data = text.encode() + b"\0"
        self._socket.sendall(b"Q" + struct.pack(">I", 4 + len(data)) + data)
        return self._rows()

    def value(self, text: str) -> str | None:
        """The one value that a statement returns."""
        ((found,),) = self.query(text)
        return found

    def _rows(self) -> list[tuple[str | None, ...]]:
        rows, problem = [], ""
        while True:
            head = self._stream.read(5)
            if len(head) < 5:
                raise ConnectionError(problem or "the server has closed the connection")
            kind, size = head[:1], struct.unpack(">I", head[1:])[0] - 4
            body = self._stream.read(size)
            if kind == b"D":
                rows.append(_row(body))
            elif kind == b"E":
                problem = body.replace(b"\0", b" ").decode(errors="replace")
            elif kind == b"Z":
                if problem:
                    raise PostgresError(problem)
                return rows

    def close(self) -> None:
        """Say good bye."""
        self._socket.sendall(b"X\0\0\0\4")
        self._stream.close()
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _row(body: bytes) -> tuple[str | None, ...]:
    (count,) = struct.unpack_from(">H", body)
    offset, fields = 2, []
    for _ in range(count):
        (size,) = struct.unpack_from(">i", body, offset)
        offset += 4
        fields.append(None if size < 0 else body[offset : offset + size].decode())
        offset += max(size, 0)
    return tuple(fields)
