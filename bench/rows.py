"""What is measured: each row is a pod, the request it is asked, and how it is put to sleep."""

from __future__ import annotations

import dataclasses
import socket
import time
from collections.abc import Callable, Mapping, Sequence

from dev import cri
from dev.zeropod import reach

PYTHON_SERVER = """
import http.server, json, socketserver
CACHE = {n: str(n) * 50 for n in range(100_000)}
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        body = CACHE[4711].encode()
        self.send_response(200); self.send_header("Content-Length", str(len(body))); self.end_headers()
        self.wfile.write(body)
    def log_message(self, *_): pass
class Server(socketserver.ThreadingMixIn, http.server.HTTPServer): daemon_threads = True
Server(("", 8080), Handler).serve_forever()
"""


@dataclasses.dataclass(frozen=True)
class Row:
    """One workload.

    Attributes:
        name: In the table.
        image: To run.
        port: It serves.
        request: Sent; the first bytes of the answer end the clock.
        command: Instead of the image's own.
        prepare: Commands sent to it once, for redis.
        resources: CRI resources.
        rounds: How many sleeps; each measures one wake.
    """

    name: str
    image: str
    port: int
    request: bytes
    command: Sequence[str] = ()
    prepare: bytes = b""
    resources: Mapping[str, int] = dataclasses.field(default_factory=dict)
    rounds: int = 50


PING = b"RANDOMKEY\r\n"
GET = b"GET / HTTP/1.1\r\nHost: bench\r\n\r\n"
REDIS = ("redis-server", "--protected-mode", "no", "--save", "", "--enable-debug-command", "yes")
FILL = b"DEBUG POPULATE 50000 key 64\r\n"
FILL_500 = b"DEBUG POPULATE 500000 key 900\r\n"

ROWS = (
    Row("redis 14 MB", "localhost/redis:1", 6379, PING, REDIS, FILL),
    Row("nginx", "localhost/nginx:1", 80, GET),
    Row("python http", "localhost/python:1", 8080, GET, command=("python3", "-c", PYTHON_SERVER)),
    Row(
        "redis 100m CPU",
        "localhost/redis:1",
        6379,
        PING,
        REDIS,
        FILL,
        resources={"cpu_quota": 10_000},
    ),
    Row("redis 500 MB", "localhost/redis:1", 6379, PING, REDIS, FILL_500),
)


def start(row: Row, name: str) -> tuple[cri.Pod, cri.Container]:
    """Run the row's pod; it sleeps only when told to."""
    pod = cri.Pod(
        name, namespace="bench", annotations={"zeropod.ctrox.dev/scaledown-duration": "1h"}
    ).start()
    container = pod.run(row.image, row.command, resources=dict(row.resources))
    cri.until(lambda: answers(pod.ip, row), 60)
    reach(f"bench/{name}", "RUNNING", 10)
    if row.prepare:
        with connect(pod.ip, row) as connection:
            connection.sendall(row.prepare)
            connection.settimeout(120)
            connection.recv(100)
    return pod, container


def connect(address: str, row: Row) -> socket.socket:
    """A new connection, without delay of small segments."""
    connection = socket.create_connection((address, row.port), timeout=60)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def answers(address: str, row: Row) -> bool:
    """Whether it serves yet."""
    try:
        with connect(address, row) as connection:
            connection.sendall(row.request)
            return bool(connection.recv(1))
    except OSError:
        return False


def first_byte(connection: socket.socket, row: Row) -> None:
    """Ask and wait for the first byte of the answer."""
    connection.sendall(row.request)
    if not connection.recv(65536):
        raise ConnectionError(f"{row.name}: closed instead of answering")


def rest(connection: socket.socket) -> None:
    """Read what else there is of an answer, so that it is not taken for the next one."""
    connection.settimeout(0.02)
    try:
        while connection.recv(65536):
            pass
    except TimeoutError:
        connection.settimeout(60)


def milliseconds(action: Callable[[], object]) -> float:
    """How long an action took."""
    begun = time.perf_counter()
    action()
    return 1e3 * (time.perf_counter() - begun)
