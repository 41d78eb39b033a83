"""Protocols over a sleep: streams that last, servers that speak first, long requests, slow and large ones."""

from __future__ import annotations

import concurrent.futures
import hashlib
import http.client
import queue
import random
import re
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest
from node import clients, workloads
from node.clients import Sleeper, Talker
from websockets.sync.client import connect

from dev import cri, patience

Pods = Callable[..., cri.Pod]

ENOUGH = 20.0


def echoes(pods: Pods, *arguments: object, **described: Any) -> Sleeper:
    """A pod that runs servers/echoes.py."""
    return workloads.start(
        pods, "servers", clients.server("echoes.py", *arguments), "listening", **described
    )


def banners(pods: Pods, **described: Any) -> Sleeper:
    """A pod that runs servers/banners.py."""
    return workloads.start(pods, "servers", clients.server("banners.py"), "listening", **described)


# --- streams that last ------------------------------------------------------------------------------------------------


@pytest.mark.timeout(120)
def test_ten_cycles_of_a_websocket_and_a_grpc_stream(pods: Pods) -> None:
    """One WebSocket and one gRPC stream go on through ten sleeps; neither client sees an error."""
    one = echoes(pods)
    sent: queue.Queue[bytes] = queue.Queue()
    with (
        connect(f"ws://{one.ip}:8080", ping_interval=None) as websocket,
        grpc.insecure_channel(f"{one.ip}:50051") as channel,
    ):
        stream = channel.stream_stream("/test.Echo/Stream")(iter(sent.get, b""))
        for number in range(1, 11):
            # Each is the one that wakes it, in turn.
            for which in range(2):
                if (number + which) % 2:
                    websocket.send("hello")
                    assert websocket.recv(ENOUGH) == f"{number} hello"
                else:
                    sent.put(b"hello")
                    assert next(stream) == b"%d hello" % number
            # gRPC has more to say than what it is asked to: it measures the connection with pings.
            clients.until(one.try_sleep)
            assert one.state == "ASLEEP"
        sent.put(b"")
        assert list(stream) == []
        assert channel.unary_unary("/test.Echo/Once")(b"bye", timeout=ENOUGH) == b"bye"
    assert one.reach("RUNNING")["wakes"] >= 10
    one.check()


def test_a_websocket_with_tcp_keepalives(pods: Pods) -> None:
    """A silent WebSocket whose client's kernel keeps it alive falls asleep with its pod, and lives on."""
    one = echoes(pods, scaledown="1s")
    sock = socket.create_connection((one.ip, 8080))
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    # A busy machine may stand still for some seconds.
    for option, value in (("TCP_KEEPIDLE", 1), ("TCP_KEEPINTVL", 1), ("TCP_KEEPCNT", 10)):
        sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
    with connect(f"ws://{one.ip}:8080", sock=sock, ping_interval=None) as websocket:
        for number in (1, 2):
            websocket.send("hello")
            assert websocket.recv(ENOUGH) == f"{number} hello"
            one.reach("ASLEEP")
            one.sleeps_on(4.0)
    one.check()


def test_a_server_that_pings_is_not_kept_awake_by_it(pods: Pods) -> None:
    """A WebSocket over which only the server's pings and the client's pongs go sleeps, and lives on."""
    one = echoes(pods, 0.3, scaledown="2s")
    with connect(f"ws://{one.ip}:8080", ping_interval=None) as websocket:
        for number in (1, 2):
            websocket.send("hello")
            assert websocket.recv(ENOUGH) == f"{number} hello"
            one.reach("ASLEEP")
            one.sleeps_on(3.0)
    one.check()


def test_a_client_that_pings_is_answered(pods: Pods) -> None:
    """A client's ping wakes, since who hears nothing hangs up; then the pod sleeps until the next one."""
    one = echoes(pods, scaledown="1s")
    with connect(f"ws://{one.ip}:8080", ping_interval=5.0, ping_timeout=20.0) as websocket:
        websocket.send("hello")
        assert websocket.recv(ENOUGH) == "1 hello"
        for number in (1, 2, 3):
            one.reach("ASLEEP")
            one.woke("tcp-ping", number)
        websocket.send("hello")
        assert websocket.recv(ENOUGH) == "2 hello"
    one.check()


@pytest.mark.annotation("max-request")
def test_an_mqtt_session_does_not_pin_its_pod(pods: Pods) -> None:
    """Published at quality of service 0 nothing is answered; after max-request, and between pings, the pod sleeps."""
    wish = {"zeropod.ctrox.dev/max-request": "2s"}
    one = banners(pods, scaledown="1s", annotations=wish)
    with socket.create_connection((one.ip, 1883), timeout=ENOUGH) as session:
        session.sendall(b"\x10\x0c\0\4MQTT\4\2\0\x3c\0\0")
        assert session.recv(99) == b"\x20\2\0\0"
        session.sendall(b"\x30\4\0\1ta")
        before = time.monotonic()
        one.reach("ASLEEP")
        assert time.monotonic() - before > 1.5
        for number in (1, 2):
            session.sendall(b"\xc0\0")
            assert session.recv(99) == b"\xd0\0"
            one.woke("tcp-ping", number)
            one.reach("ASLEEP")
        session.sendall(b"\x82\x06\0\1\0\1t\0")
        told = b""
        while not told.endswith(b"\0\1t1"):  # its answer and the count, in one segment or two
            more = session.recv(99)
            assert more, told
            told += more
        assert one.reach("RUNNING")["wake_cause"] == "tcp-data"
    one.check()


def test_an_http2_session_does_not_pin_its_pod(pods: Pods) -> None:
    """A gRPC channel that is kept open after a call sleeps with its pod, pings of its client included."""
    one = echoes(pods, scaledown="1s")
    options = [
        ("grpc.keepalive_time_ms", 5000),
        ("grpc.keepalive_timeout_ms", 4000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
    ]
    with grpc.insecure_channel(f"{one.ip}:50051", options) as channel:
        call = channel.unary_unary("/test.Echo/Once")
        assert call(b"hello", timeout=ENOUGH) == b"hello"
        for number in (1, 2):
            one.reach("ASLEEP")
            one.woke("tcp-ping", number)
        assert call(b"again", timeout=ENOUGH) == b"again"
    one.check()


# --- servers that speak first -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("port", "banner", "say", "answer"),
    [
        pytest.param(25, rb"220 mail.example ESMTP session \d\r\n", b"HELO me\r\n", b"heard HELO ME", id="SMTP"),
        pytest.param(22, rb"SSH-2.0-banner_\d\r\n", b"SSH-2.0-me\r\n", b"heard SSH-2.0-me", id="SSH"),
        pytest.param(3306, rb"\x0a8.0.0-test\0", b"\4\0\0\1abcd", b"Access denied", id="MySQL"),
    ],
)  # fmt: skip
def test_who_speaks_second_wakes_who_speaks_first(
    pods: Pods, port: int, banner: bytes, say: bytes, answer: bytes
) -> None:
    """A client that connects and waits for the banner gets it; asleep in between, the session goes on after it."""
    one = banners(pods)
    for number in (1, 2):
        one.sleep()
        with socket.create_connection((one.ip, port), timeout=ENOUGH) as sock:
            greeting = sock.recv(200)
            assert re.search(banner, greeting), greeting
            one.woke("tcp-connect", 2 * number - 1)
            # It has spoken last: nobody waits, and it may sleep with this client connected.
            one.sleep()
            sock.sendall(say)
            assert answer in sock.recv(200)
            one.woke("tcp-data", 2 * number)
    one.check()


def test_ssh(pods: Pods) -> None:
    """A real SSH server: a client's command runs on the sleeping pod, from banner to exit status."""
    key = "dropbearkey -t ed25519 -f /root/key | grep ^ssh- > /root/.ssh/authorized_keys"
    serve = "dropbear -R -F -E -s -p 22"
    script = f"mkdir -m 700 /root/.ssh && {key} && echo listening && exec {serve}"
    one = workloads.start(pods, "ssh", ["sh", "-c", script], "Not backgrounding")
    client = pods().run(workloads.image("ssh"), ["sleep", "1000"])
    secret = one.container.exec(["base64", "/root/key"]).out
    client.exec(["sh", "-c", f"echo '{secret}' | base64 -d > /root/key"])
    words = ["dbclient", "-y", "-i", "/root/key", f"root@{one.ip}", "echo $((40 + 2)); exit 3"]
    one.reach("RUNNING")
    for _ in range(2):
        one.sleep()
        done = client.exec(words, timeout=30)
        assert (done.code, done.out) == (3, "42\n"), done.err
    one.check()


# --- requests ---------------------------------------------------------------------------------------------------------

SLOW = """
import http.server, time
class Slow(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        time.sleep(float(self.path[1:]))
        self.send_response(200)
        self.send_header("Content-Length", "5")
        self.end_headers()
        self.wfile.write(b"done\\n")
    def do_POST(self):
        count = 0
        for _ in range(int(self.headers["Content-Length"])):
            count += len(self.rfile.read(1))
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for _ in range(count):
            self.wfile.write(b"1\\r\\nx\\r\\n")
            time.sleep(0.5)
        self.wfile.write(b"0\\r\\n\\r\\n")
server = http.server.ThreadingHTTPServer(("", 8080), Slow)
print("listening", flush=True)
server.serve_forever()
"""

LONG = patience.seconds(6.0)


def lasting(seconds: float) -> Any:
    """The same for as long as it may well be."""
    return pytest.param(seconds, id="long", marks=[pytest.mark.slow, pytest.mark.timeout(240)])


@pytest.mark.parametrize("seconds", [pytest.param(LONG, id="short"), lasting(90.0)])
@pytest.mark.parametrize("waking", [False, True])
def test_a_long_request_is_not_cut(pods: Pods, seconds: float, *, waking: bool) -> None:
    """A request that takes many scaledown-durations is answered, awake all the time, also the one that woke."""
    one = workloads.start(pods, "servers", ["python3", "-c", SLOW], "listening", scaledown="1s")
    if waking:
        one.reach("ASLEEP")
    before = one.info()["sleeps"]
    assert workloads.get(one.ip, 8080, f"/{seconds}", timeout=seconds + ENOUGH) == "done\n"
    assert one.info()["sleeps"] == before
    one.reach("ASLEEP")


def test_slow_bodies_keep_awake(pods: Pods) -> None:
    """A body that comes, or goes, byte by byte within the scaledown-duration is whole."""
    one = workloads.start(pods, "servers", ["python3", "-c", SLOW], "listening", scaledown="4s")
    one.reach("ASLEEP")

    def trickle() -> Iterator[bytes]:
        for _ in range(6):
            time.sleep(0.7)
            yield b"x"

    client = http.client.HTTPConnection(one.ip, 8080, timeout=ENOUGH)
    client.request("POST", "/", trickle(), {"Content-Length": "6"})
    assert client.getresponse().read() == b"x" * 6
    client.close()
    assert one.info()["sleeps"] == 1
    one.reach("ASLEEP")


@pytest.mark.parametrize("seconds", [pytest.param(LONG, id="short"), lasting(30.0)])
def test_the_first_byte_comes_late(pods: Pods, seconds: float) -> None:
    """A client whose connection woke the pod and who says nothing for long is asleep with it, and then served."""
    started = clients.Sleepers(pods)
    one = started.talker(scaledown="1s")
    one.reach("ASLEEP")
    before = one.info()["wakes"]
    with Talker(one.ip) as client:
        one.woke("tcp-connect", before + 1)
        one.reach("ASLEEP")
        time.sleep(seconds)
        assert client.ask("echo", "late") == "late"
        one.woke("tcp-data", before + 2)
        client.sock.shutdown(socket.SHUT_WR)
        assert client.lines.read() == b""
    started.check()


@pytest.mark.timeout(120)
def test_a_hundred_megabytes_each_way_on_the_waking_connection(talker: Sleeper) -> None:
    """All of it arrives, in order, over the connection whose SYN found the pod asleep."""
    data = random.Random(1).randbytes(100 << 20)
    with Talker(talker.ip) as client:
        assert client.ask("grow", 100 << 20) == "grown"
        digest = client.ask("digest")
    talker.sleep()
    with Talker(talker.ip) as client:
        client.say("sink", len(data))
        client.sock.sendall(data)
        assert client.hear() == hashlib.sha256(data).hexdigest()
        client.say("source", 110 << 20)
        back = client.lines.read(110 << 20)
        assert hashlib.sha256(back).hexdigest() == digest
        assert client.hear() == "sent"
    talker.woke("tcp-connect")


def test_both_ways_at_once_on_the_waking_connection(pods: Pods) -> None:
    """A client that sends before it has seen anything, and reads meanwhile, gets its own bytes back, to the end."""
    script = (
        "import socketserver\n"
        "class Echo(socketserver.BaseRequestHandler):\n"
        "    def handle(self):\n"
        "        while data := self.request.recv(65536):\n"
        "            self.request.sendall(data)\n"
        "server = socketserver.ThreadingTCPServer(('', 8080), Echo)\n"
        "print('listening', flush=True)\n"
        "server.serve_forever()\n"
    )
    one = workloads.start(pods, "servers", ["python3", "-c", script], "listening")
    data = random.Random(2).randbytes(20 << 20)
    one.sleep()
    with (
        socket.create_connection((one.ip, 8080), timeout=ENOUGH) as sock,
        concurrent.futures.ThreadPoolExecutor(1) as pool,
    ):

        def send() -> None:
            sock.sendall(data)
            sock.shutdown(socket.SHUT_WR)

        sending = pool.submit(send)
        with sock.makefile("rb") as back:
            assert back.read() == data
        sending.result()
    one.check()
