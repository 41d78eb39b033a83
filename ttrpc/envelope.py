"""The request and the response that carry every call (containerd/ttrpc, request.proto).

Response.status is a google.rpc.Status; its details are kept as unknown fields.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from ttrpc import errors, messages

Metadata: TypeAlias = Mapping[str, Sequence[str]]
"""Keys and their values, as gRPC's; keys are lower case by convention."""

_api = messages.schema(
    "ttrpc",
    {
        "KeyValue": [(1, "key", "string"), (2, "value", "string")],
        "Request": [
            (1, "service", "string"),
            (2, "method", "string"),
            (3, "payload", "bytes"),
            (4, "timeout_nano", "int64"),
            (5, "metadata", "repeated KeyValue"),
        ],
        "Status": [(1, "code", "int32"), (2, "message", "string")],
        "Response": [(1, "status", "Status"), (2, "payload", "bytes")],
    },
)


@dataclass(frozen=True, slots=True)
class Request:
    """One call as it travels.

    Attributes:
        service: full protobuf name of the service, for example "ttrpc.example.Greeter".
        method: bare name of the method.
        payload: the request message's bytes.
        timeout: seconds that the caller waits; None: for ever.
        metadata: of the caller.
    """

    service: str
    method: str
    payload: bytes
    timeout: float | None
    metadata: Metadata


def pack_request(request: Request) -> bytes:
    """Return the body of a request frame."""
    pairs = ((key, value) for key, values in request.metadata.items() for value in values)
    message = _api.Request(
        service=request.service,
        method=request.method,
        payload=request.payload,
        # 0 would mean "no limit": a limit that is used up stays one.
        timeout_nano=0 if request.timeout is None else max(1, int(request.timeout * 1e9)),
        metadata=[_api.KeyValue(key=key, value=value) for key, value in pairs],
    )
    return messages.encode(message)


def unpack_request(body: bytes) -> Request:
    """Return the call in a request frame.

    Raises:
        TtrpcError: INVALID_ARGUMENT, this is no request.
    """
    try:
        message = _api.Request.FromString(body)
    except messages.DecodeError as error:
        problem = f"malformed request: {error}"
        raise errors.TtrpcError(errors.Code.INVALID_ARGUMENT, problem) from error
    metadata: dict[str, list[str]] = {}
    for pair in message.metadata:
        metadata.setdefault(pair.key, []).append(pair.value)
    timeout = message.timeout_nano / 1e9 if message.timeout_nano > 0 else None
    return Request(message.service, message.method, message.payload, timeout, metadata)


def pack_response(payload: bytes) -> bytes:
    """Return the body of the response frame of a call that worked."""
    return messages.encode(_api.Response(payload=payload))


def pack_error(code: errors.Code, message: str) -> bytes:
    """Return the body of the response frame of a call that failed."""
    return messages.encode(_api.Response(status=_api.Status(code=code, message=message)))


def unpack_response(body: bytes) -> bytes:
    """Return the payload of a response frame.

    Raises:
        TtrpcError: the other side's error, or INTERNAL: this is no response.
    """
    try:
        message = _api.Response.FromString(body)
    except messages.DecodeError as error:
        problem = f"malformed response: {error}"
        raise errors.TtrpcError(errors.Code.INTERNAL, problem) from error
    if message.status.code != errors.Code.OK:
        raise errors.TtrpcError(message.status.code, message.status.message)
    payload: bytes = message.payload
    return payload
