"""A program that plays the kubelet: it probes as that does, from a cgroup of its own that the daemon is told of."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

from node import sleepers

from checkpointer import cgroups
from dev import patience

FLAGS = Path("/run/node/daemon.flags")

USUAL = "--disk-reserve 1% --inode-reserve 1%"
"""What the node gives its daemon otherwise."""

AGENT = "kube-probe/1.35"

#: Answers what it is asked, a line of JSON each.
PROGRAM = r"""
import json, socket, ssl, struct, sys, time

def connect(ip, port, timeout):
    return socket.create_connection((ip, port), timeout)

def read(line):
    data = b""
    while piece := line.recv(65536):
        data += piece
        head, found, body = data.partition(b"\r\n\r\n")
        for field in head.lower().split(b"\r\n"):
            if found and field.startswith(b"content-length:") and len(body) >= int(field[15:]):
                return data.decode()
    return data.decode()

def http(ip, port, path, agent, timeout, pieces, tls):
    host = "[%s]" % ip if ":" in ip else ip
    text = "GET %s HTTP/1.1\r\nHost: %s:%d\r\nUser-Agent: %s\r\nAccept: */*\r\nConnection: close\r\n\r\n"
    request = (text % (path, host, port, agent)).encode()
    with connect(ip, port, timeout) as line:
        line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if tls:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            context.set_alpn_protocols(["h2", "http/1.1"])
            line = context.wrap_socket(line)
        size = -(-len(request) // pieces)
        for at in range(0, len(request), size):
            if at:
                time.sleep(0.05)
            line.sendall(request[at:at + size])
        return read(line)

def tcp(ip, port, timeout):
    connect(ip, port, timeout).close()
    return "open"

def from_port(ip, port, own, last, timeout):
    # From the same port again; where the server closes first, its end stays in TIME_WAIT.
    with socket.socket() as line:
        line.settimeout(timeout)
        line.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        line.bind(("", own))
        line.connect((ip, port))
        line.sendall(b"GET / HTTP/1.1\r\nUser-Agent: kube-probe/1\r\nConnection: close\r\n\r\n")
        text = read(line)
        while last and line.recv(1):
            pass
        return [text.partition("\r\n")[0], line.getsockname()[1]]

parked = []

def park(ip, port, count):
    parked.extend(connect(ip, port, 5) for _ in range(count))

def leave():
    while parked:
        parked.pop().close()

def say(path, agent, timeout):
    with parked.pop() as line:
        line.settimeout(timeout)
        line.sendall(("GET %s HTTP/1.1\r\nHost: x\r\nUser-Agent: %s\r\n\r\n" % (path, agent)).encode())
        return read(line)

def raw(ip, port, text, timeout):
    with connect(ip, port, timeout) as line:
        line.sendall(text.encode())
        line.shutdown(socket.SHUT_WR)
        data = b""
        while piece := line.recv(65536):
            data += piece
        return data.decode()

def field(number, value):
    return bytes([number << 3 | 2, len(value)]) + value

def frame(kind, flags, stream, payload=b""):
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload

def grpc(ip, port, method, timeout):
    # Literal header fields without indexing, as RFC 7541, 6.2.2 has them.
    def literal(name, value):
        return b"\0" + bytes([len(name)]) + name + bytes([len(value)]) + value
    headers = b"".join(literal(*pair) for pair in (
        (b":method", b"POST"), (b":scheme", b"http"), (b":path", method.encode()), (b":authority", b"probe"),
        (b"content-type", b"application/grpc"), (b"user-agent", b"kube-probe/1.35 grpc-go/1.72.2"),
    ))
    with connect(ip, port, timeout) as line:
        line.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(4, 0, 0))
        data, asked, got = b"", False, []
        while True:
            while len(data) < 9 or len(data) < 9 + int.from_bytes(data[:3], "big"):
                piece = line.recv(65536)
                if not piece:
                    return got
                data += piece
            length = int.from_bytes(data[:3], "big")
            kind, flags, payload = data[3], data[4], data[9:9 + length]
            data = data[9 + length:]
            if kind == 4 and not flags & 1:
                # grpc-go waits for the server's settings before it asks.
                line.sendall(frame(4, 1, 0) + frame(1, 4, 1, headers) + frame(0, 1, 1, b"\0" * 5))
            elif kind == 0:
                got.append(payload.hex())
            elif kind in (3, 7) or (kind == 1 and flags & 1):
                return [*got, {1: "end", 3: "reset", 7: "goaway"}[kind]]

open("/proc/self/comm", "w").write("kubelet")
print("ready", flush=True)
for line in sys.stdin:
    what, arguments = json.loads(line)
    try:
        answer = globals()[what](*arguments)
    except OSError as error:
        answer = "failed: %s" % (error or type(error).__name__)
    print(json.dumps(answer), flush=True)
"""


class Kubelet:
    """One that probes when it is told to; a probe at a time."""

    def __init__(self) -> None:
        v2 = cgroups.of(os.getpid()).v2
        assert v2 is not None
        self.cgroup = cgroups.mount_of(v2) / "kubelet.service"
        self._lock = threading.Lock()
        self._begin()

    def _begin(self) -> None:
        self.cgroup.mkdir(exist_ok=True)
        words = f'echo $$ > {self.cgroup}/cgroup.procs; exec {sys.executable} -c "$1"'
        self._process = subprocess.Popen(
            ["sh", "-ec", words, "sh", PROGRAM],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout
        assert self._process.stdout.readline() == "ready\n"

    def call(self, what: str, *arguments: object) -> Any:
        """What came of it."""
        assert self._process.stdin
        assert self._process.stdout
        with self._lock:
            self._process.stdin.write(json.dumps([what, arguments]) + "\n")
            self._process.stdin.flush()
            return json.loads(self._process.stdout.readline())

    def http(
        self,
        ip: str,
        port: int,
        path: str = "/",
        *,
        agent: str = AGENT,
        timeout: float = 20,
        pieces: int = 1,
        tls: bool = False,
    ) -> str:
        """The first line of the answer to an httpGet probe, "" for none; "failed: .." if there was no connection."""
        seconds = patience.seconds(timeout)
        answer = self.call("http", ip, port, path, agent, seconds, pieces, tls)
        return str(answer).partition("\r\n")[0]

    def tcp(self, ip: str, port: int, timeout: float = 5) -> str:
        """What came of a tcpSocket probe: "open"."""
        return str(self.call("tcp", ip, port, patience.seconds(timeout)))

    def raw(self, ip: str, port: int, text: str, timeout: float = 20) -> str:
        """All that is answered to a text."""
        return str(self.call("raw", ip, port, text, patience.seconds(timeout)))

    def grpc(
        self, ip: str, port: int, method: str = "/grpc.health.v1.Health/Check", timeout: float = 5
    ) -> Any:
        """Messages of an answer in hexadecimal, and how the stream ended."""
        return self.call("grpc", ip, port, method, patience.seconds(timeout))

    def start_anew(self) -> None:
        """As after an update: another process, in a new cgroup of the same name."""
        with self._lock:
            self.close()
            self._begin()

    def close(self) -> None:
        """End it; its cgroup goes, too."""
        with self._process:
            self._process.kill()
        patience.until(lambda: not (self.cgroup / "cgroup.procs").read_text(), 30)
        self.cgroup.rmdir()


@contextlib.contextmanager
def heard() -> Iterator[Kubelet]:
    """A kubelet that the node's daemon, started anew, knows."""
    kubelet = Kubelet()
    FLAGS.write_text(f"{USUAL} --kubelet-cgroup {kubelet.cgroup}")
    restart()
    try:
        yield kubelet
    finally:
        FLAGS.unlink()
        kubelet.close()
        restart()


def restart() -> None:
    """End the daemon as planned, and wait for its successor."""
    pid = sleepers.service_pid("daemon")
    os.kill(pid, signal.SIGTERM)
    patience.until(lambda: not sleepers.alive(pid), 30)
    sleepers.ready()


class Probing:
    """Probes that go on beside the test."""

    def __init__(self, kubelet: Kubelet, period: float, what: str, *arguments: Any) -> None:
        self.answers: list[Any] = []
        self._stop = threading.Event()
        self._probe = (getattr(kubelet, what), arguments)
        self._period = period
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        function, arguments = self._probe
        while not self._stop.wait(self._period):
            self.answers.append(function(*arguments))

    def more(self, count: int, timeout: float = 30) -> None:
        """Wait for so many more."""
        wanted = len(self.answers) + count
        patience.until(lambda: len(self.answers) >= wanted, timeout + count * self._period)

    def __enter__(self) -> Self:
        """Begin."""
        self._thread.start()
        time.sleep(0)
        return self

    def __exit__(self, *_: object) -> None:
        """End."""
        self._stop.set()
        self._thread.join()
