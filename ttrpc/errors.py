"""The statuses of the protocol and the exceptions of this package.

ttRPC uses gRPC's numbers (google.golang.org/grpc/codes). Whatever goes wrong in a call arrives as
a `TtrpcError`, be it the other side's answer, a time-out or a broken socket.
"""

from __future__ import annotations

import enum


class Code(enum.IntEnum):
    """Status codes, the same as gRPC's."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2  # also: a Go handler's error without a code of its own
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8  # a message over the limit
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12  # unknown service or method; NRI relies on this number
    INTERNAL = 13
    UNAVAILABLE = 14  # no connection, or it broke
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


class TtrpcError(Exception):
    """A call that failed.

    Attributes:
        code: the status; a number that gRPC does not define becomes `Code.UNKNOWN`.
        message: what happened, for people.
    """

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = Code(code) if code in Code.__members__.values() else Code.UNKNOWN
        self.message = message

    def __str__(self) -> str:
        return f"{self.code.name.lower()}: {self.message}"


class FrameError(TtrpcError):
    """Bytes that are no ttRPC frames; the connection is of no use any more."""

    def __init__(self, message: str) -> None:
        super().__init__(Code.INTERNAL, message)


def closed(reason: str) -> TtrpcError:
    """Return the error of a call whose connection is gone."""
    return TtrpcError(Code.UNAVAILABLE, reason)
