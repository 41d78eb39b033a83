"""What the API server can answer instead of doing what it is asked; by what is to be done about it."""

from __future__ import annotations

import re

_RIGHTS = re.compile(
    r'cannot (?P<verb>\w+) resource "(?P<resource>[\w./-]+)"(?: in API group "(?P<group>[^"]*)")?'
)


class ApiError(Exception):
    """Base of this package's errors.

    Attributes:
        message: The server's sentence, or ours.
        status: The HTTP status; 0 without an answer.
    """

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.message = message
        self.status = status


class Unreachable(ApiError):
    """No answer, or one that says that the server is in trouble. Try again, later and later.

    Attributes:
        after: Seconds that the server wants to be left alone for; 0 if it does not say.
    """

    def __init__(self, message: str, status: int = 0, after: float = 0.0) -> None:
        super().__init__(message, status)
        self.after = after


class Unauthorized(Unreachable):
    """The server does not know us: a token that has run out, or a clock that is wrong. It is read again."""


class NotFound(ApiError):
    """There is no such object, or no such resource."""


class Missing(ApiError):
    """The server does not know the resource: it is too old."""


class Conflict(ApiError):
    """The object is not what it was thought to be: changed, or another one of the same name."""


class Gone(ApiError):
    """A watch is too far behind; begin with a list."""


class Rejected(ApiError):
    """The server will never do this: it is invalid, or something (a quota, a policy) is against it."""


class Denied(ApiError):
    """We lack a right.

    Attributes:
        verb: What for, such as "patch".
        resource: Of what, such as "pods/resize", with its API group after a dot.
    """

    def __init__(self, message: str, verb: str, resource: str) -> None:
        super().__init__(message, 403)
        self.verb = verb
        self.resource = resource


def of(status: int, message: str, retry_after: str = "") -> ApiError:
    """The error that an answer means."""
    rights = _RIGHTS.search(message)
    match status:
        case 401:
            return Unauthorized(message, status)
        case 403 if rights is not None:
            group = f".{rights['group']}" if rights["group"] else ""
            return Denied(message, rights["verb"], rights["resource"] + group)
        case 404:
            return NotFound(message, status)
        case 409:
            return Conflict(message, status)
        case 410:
            return Gone(message, status)
        case 408 | 429:
            return Unreachable(message, status, _seconds(retry_after))
        case _ if status >= 500:
            return Unreachable(message, status, _seconds(retry_after))
        case _:
            return Rejected(message, status)


def _seconds(retry_after: str) -> float:
    # RFC 9110 has dates, too; Kubernetes sends seconds. A server cannot send us away for longer than this.
    return min(300.0, float(retry_after)) if retry_after.isdecimal() else 0.0
