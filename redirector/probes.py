"""What the kubelet asks, and what it is told in a sleeping application's place. Pure functions.

A connection is known to be the kubelet's before it gets here (`redirector.kubelet`). What it wants is read from its first
bytes: nothing at all, and it is closed again: tcpSocket; a GET with the kubelet's User-Agent for probes: httpGet; HTTP/2:
grpc. Where it is known what the pod declared, that decides instead of the User-Agent, which a declaration may set, too.
Anything else, a lifecycle hook above all, is for the application.
"""

from __future__ import annotations

import enum
import struct
import urllib.parse
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, Self

Role = Literal["startup", "readiness", "liveness"]
Kind = Literal["http", "tcp", "grpc", "exec"]

LONGEST = 1 << 16
"""Bytes of a request's head; a longer one is nobody's probe."""

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
"""What HTTP/2 begins with (RFC 9113, 3.4)."""

_HANDSHAKE = 0x16  # of TLS, RFC 8446, 5.1
_PROBE, _HOOK = "kube-probe/", "kube-lifecycle/"
_END = b"\r\n\r\n"


class Probe(NamedTuple):
    """One probe that a container declares, as far as it matters here."""

    role: Role
    kind: Kind
    port: int = 0
    path: str = ""
    """Of httpGet, with its query."""
    tls: bool = False
    service: str = ""
    """Of grpc."""
    period: float = 10.0
    """Seconds from one to the next."""
    failures: int = 3
    """In a row, until it has failed."""


class Fitness(enum.IntEnum):
    """What is known of a container that cannot be asked: whether it could be woken."""

    BROKEN = 0
    """It will be restarted."""
    ALIVE = 1
    """A wake has failed and is tried again."""
    READY = 2


class Rules(NamedTuple):
    """What is to be answered on a port."""

    declared: tuple[Probe, ...] | None = None
    """None when it is not known."""
    fitness: Fitness = Fitness.READY

    def encoded(self) -> dict[str, Any]:
        """As JSON has it."""
        declared = None if self.declared is None else [list(probe) for probe in self.declared]
        return {"declared": declared, "fitness": int(self.fitness)}

    @classmethod
    def decoded(cls, values: Mapping[str, Any]) -> Self:
        """From `encoded`."""
        declared = values["declared"]
        probes = None if declared is None else tuple(Probe(*probe) for probe in declared)
        return cls(probes, Fitness(values["fitness"]))


class Opening(enum.Enum):
    """What the first bytes of a connection are."""

    MORE = "more"  # too few of them to tell
    HTTP = "http"  # the whole head of a GET
    H2 = "h2"
    TLS = "tls"
    OTHER = "other"


class Answer(enum.Enum):
    """What is done about a request."""

    YES = "yes"
    NO = "no"
    FORWARD = "forward"  # to the application


class Request(NamedTuple):
    """A GET; the names of its fields in lower case."""

    path: str
    fields: Mapping[str, str]


def opening(data: bytes) -> Opening:
    """Tell what a connection begins with, however it was cut into segments."""
    if not data:
        return Opening.MORE
    if data[0] == _HANDSHAKE:
        return Opening.TLS
    if _begins(data, PREFACE):
        return Opening.H2 if len(data) >= len(PREFACE) else Opening.MORE
    if _begins(data, b"GET "):
        if _END in data:
            return Opening.HTTP
        return Opening.MORE if len(data) < LONGEST else Opening.OTHER
    return Opening.OTHER


def _begins(data: bytes, word: bytes) -> bool:
    """Tell whether this is how `word` begins, or goes on after it."""
    return data.startswith(word) or word.startswith(data)


def request(data: bytes) -> Request:
    """Read the head of a GET."""
    head = data.partition(_END)[0].decode("latin-1")
    first, *lines = head.split("\r\n")
    fields: dict[str, str] = {}
    for line in lines:
        name, _, value = line.partition(":")
        fields[name.strip().lower()] = value.strip()
    return Request(first.split(" ")[1], fields)


def http(asked: Request, port: int, rules: Rules, *, tls: bool) -> Answer:
    """Judge a request."""
    agent = asked.fields.get("user-agent", "")
    if agent.startswith(_HOOK):
        return Answer.FORWARD
    if rules.declared is None:
        return _judged(rules, ()) if agent.startswith(_PROBE) else Answer.FORWARD
    path = _plain(asked.path)
    meant = [
        probe
        for probe in rules.declared
        if (probe.kind, probe.port, probe.tls) == ("http", port, tls)
        and _plain(probe.path) == path
    ]
    return _judged(rules, meant) if meant else Answer.FORWARD


def grpc(path: str, service: str, port: int, rules: Rules) -> Answer:
    """Judge a call by its method, and the service that it asks about."""
    if path != "/grpc.health.v1.Health/Check":
        return Answer.FORWARD
    if rules.declared is None:
        return _judged(rules, ())
    wanted = ("grpc", port, service)
    meant = [p for p in rules.declared if (p.kind, p.port, p.service) == wanted]
    return _judged(rules, meant) if meant else Answer.FORWARD


def _plain(path: str) -> str:
    return urllib.parse.unquote(path if path.startswith("/") else f"/{path}")


def _judged(rules: Rules, meant: tuple[Probe, ...] | list[Probe]) -> Answer:
    """Say yes; of who is only alive, to everything but what asks for readiness and for nothing else.

    A probe of whose role nothing is known may be the one that would have the container restarted.
    """
    for_readiness = bool(meant) and all(probe.role == "readiness" for probe in meant)
    needed = Fitness.READY if for_readiness else Fitness.ALIVE
    return Answer.YES if rules.fitness >= needed else Answer.NO


def http_answer(answer: Answer) -> bytes:
    """Return a response; the kubelet takes everything below 400 for a success."""
    status, body = ("200 OK", b"ok") if answer is Answer.YES else ("503 Service Unavailable", b"")
    head = f"HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nContent-Length: {len(body)}\r\n"
    return head.encode() + b"Connection: close\r\n\r\n" + body


def health_service(data: bytes) -> str:
    """Read the name in a HealthCheckRequest that came over gRPC, its only field; "" for none.

    Of grpc/health/v1/health.proto. The length is a varint (protobuf.dev/programming-guides/encoding).
    """
    message, length = data[5:], 0
    if not message.startswith(b"\x0a"):
        return ""
    for at, byte in enumerate(message[1:4]):
        length |= (byte & 0x7F) << 7 * at
        if byte < 0x80:
            return message[at + 2 :][:length].decode(errors="replace")
    return ""


def health_answer(answer: Answer) -> bytes:
    """Return a HealthCheckResponse as gRPC has it: SERVING is 1, NOT_SERVING 2."""
    message = b"\x08\x01" if answer is Answer.YES else b"\x08\x02"
    return struct.pack(">BI", 0, len(message)) + message
