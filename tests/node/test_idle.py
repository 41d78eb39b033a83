"""What keeps a container awake, what does not, and what its owner can say about that."""

from __future__ import annotations

import concurrent.futures
import contextlib
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from node import sleepers as plain
from node.clients import NODE, PORT, Listener, Sleeper, Sleepers, Talker, until
from node.lines import Lines

from dev import cri, patience

PREFIX = "zeropod.ctrox.dev/"

#: In the node, beside its own address on the pods' bridge: a scraper's.
SCRAPER = "10.88.0.250"

#: Computes on one core, and listens.
BUSY = "threading.Thread(target=lambda: [0 for _ in iter(int, 1)], daemon=True).start()"


def talker(
    sleepers: Sleepers, pods: Callable[..., cri.Pod], *arguments: object, **wanted: str
) -> Sleeper:
    """A container that runs servers/talker.py, in a pod with annotations."""
    wanted = {"scaledown_duration": "1s"} | wanted
    annotations = {PREFIX + name.replace("_", "-"): value for name, value in wanted.items()}
    return sleepers.talker(*arguments, pod=pods(annotations=annotations))


#: A second port in the application.
TWO_PORTS = (
    "second = Server(('::', 8), Ask); "
    "threading.Thread(target=second.serve_forever, args=(0.1,), daemon=True).start()"
)


# --- requests --------------------------------------------------------------------------------------------------------


def test_question_of_its_own_keeps_awake(sleepers: Sleepers) -> None:
    """An application that waits four scaledown-durations for its database's answer gets it before the pod sleeps."""
    one = sleepers.talker(scaledown="1s")
    with Listener(NODE) as database:
        with Talker(one.ip) as client:
            client.ask("call", database.address, database.port)
            line = database.accept()
            client.ask("tell", "select")
        assert line.recv(100) == b"select\n"
        time.sleep(4)
        assert one.info()["sleeps"] == 0
        assert "waits for the answer to a request of its own" in one.why()
        line.sendall(b"1 row\n")
        one.reach("ASLEEP")


#: Reports to somebody, on a connection of its own each time, until it is told to stop.
REPORTS = """
def report():
    while "stop" not in memory:
        with socket.create_connection(("ADDRESS", NUMBER)) as line:
            line.sendall(b"report")
            line.recv(1)
        time.sleep(0.3)
threading.Thread(target=report, daemon=True).start()
"""


def test_short_connections_of_its_own_keep_awake(pods: Callable[..., cri.Pod]) -> None:
    """What it says on connections that are closed whenever it is looked at is traffic all the same."""
    with socket.create_server((NODE, 0)) as collector:

        def collect() -> None:
            with contextlib.suppress(OSError):
                while True:
                    line, _ = collector.accept()
                    line.recv(100)
                    line.close()

        threading.Thread(target=collect, daemon=True).start()
        setup = REPORTS.replace("ADDRESS", NODE).replace("NUMBER", str(collector.getsockname()[1]))
        pod = pods(annotations={plain.SCALEDOWN: "1s"})
        one = plain.python(pods, setup, pod=pod)
        time.sleep(4)
        assert one.info()["sleeps"] == 0
        assert "tcp " in one.why()
        one.ask("memory.setdefault('stop', 1)")
        one.reach("ASLEEP")


def test_session_that_pings_sleeps_between(sleepers: Sleepers) -> None:
    """A session whose only traffic is a ping now and then sleeps from one to the next, and is the same session."""
    one = sleepers.talker(scaledown="1s")
    with Talker(one.ip) as session:
        for ping in range(1, 4):
            assert session.ask("add") == str(ping)
            one.reach("ASLEEP")
    assert one.info()["sleeps"] == 3


@pytest.mark.annotation("max-request")
def test_max_request_bounds_the_wait(sleepers: Sleepers, pods: Callable[..., cri.Pod]) -> None:
    """A request that is open for longer does not keep its pod awake; its answer comes after the next wake."""
    one = talker(sleepers, pods, max_request="3s")
    with Talker(one.ip) as client:
        started = time.monotonic()
        client.say("slow", 12)
        one.reach("ASLEEP")
        assert time.monotonic() - started > 3
        assert client.quiet(), "it slept after the answer"
        with Talker(one.ip) as other, concurrent.futures.ThreadPoolExecutor(1) as pool:
            answer = pool.submit(client.hear)
            until(lambda: other.ask("add") and answer.done())
            assert answer.result() == "slow"


# --- CPU -------------------------------------------------------------------------------------------------------------


@pytest.mark.annotation("cpu-threshold")
@pytest.mark.parametrize("limit", [None, 5000], ids=["unlimited", "50m"])
def test_work_keeps_awake(pods: Callable[..., cri.Pod], limit: int | None) -> None:
    """What computes without a word on the network does not sleep, also when it is throttled; idle it does."""
    resources = {"resources": {"cpu_quota": limit}} if limit else {}
    pod = pods(annotations={plain.SCALEDOWN: "2s"})
    works = plain.python(pods, BUSY, pod=pod, **resources)
    rests = plain.python(pods, pod=pod, port=8, name="rests", **resources)
    rests.reach("ASLEEP", timeout=60)
    time.sleep(3)
    assert works.info()["sleeps"] == 0
    assert "CPU cores" in works.why()


@pytest.mark.annotation("cpu-threshold")
def test_cpu_is_not_looked_at_when_nobody_asks(pods: Callable[..., cri.Pod]) -> None:
    """With a threshold of 0 a container sleeps in the middle of its work, and goes on after the wake."""
    pod = pods(annotations={plain.SCALEDOWN: "2s", PREFIX + "cpu-threshold": "0"})
    one = plain.python(pods, BUSY, pod=pod)
    one.reach("ASLEEP")
    assert one.ask("threading.active_count()") >= 3


# --- what is ignored -------------------------------------------------------------------------------------------------


@pytest.fixture
def scraper() -> Iterator[str]:
    """Another address of the node."""
    words = [f"{SCRAPER}/32", "dev", "cni0"]
    subprocess.run(["ip", "address", "add", *words], check=True)
    yield SCRAPER
    subprocess.run(["ip", "address", "delete", *words], check=True)


def scrape(one: Sleeper, source: str, timeout: float = 5.0) -> str:
    """One request on a connection of its own, from an address of the node; "" when no answer comes."""
    with socket.socket() as sock:
        sock.settimeout(timeout)
        sock.bind((source, 0))
        try:
            sock.connect((one.ip, PORT))
            sock.sendall(b"echo metrics\n")
            return sock.recv(100).decode().strip()
        except TimeoutError:
            return ""


@pytest.mark.annotation("ignore-from")
def test_a_scraper_neither_keeps_awake_nor_wakes(
    sleepers: Sleepers, pods: Callable[..., cri.Pod], scraper: str
) -> None:
    """Awake it gets its metrics; asleep it waits in vain, is not refused, and is answered with the next client."""
    one = talker(sleepers, pods, ignore_from=f"{scraper},192.0.2.0/24")
    with Talker(one.ip) as client:
        assert client.ask("add") == "1"
        started = time.monotonic()
        while one.info()["state"] == "RUNNING":
            assert scrape(one, scraper, 0.5) in {"metrics", ""}
            assert time.monotonic() - started < patience.seconds(30)
            time.sleep(0.2)
        one.reach("ASLEEP")
        assert scrape(one, scraper, 1.0) == ""
        one.sleeps_on(0.3)
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            late = pool.submit(scrape, one, scraper)
            until(lambda: one.info()["held_frames"] >= 2)
            one.sleeps_on(0.3)
            assert client.ask("add") == "2"
            assert late.result() == "metrics"
    one.woke("tcp-data")


@pytest.mark.annotation("ignore-from")
def test_data_on_an_ignored_connection_does_not_wake(
    sleepers: Sleepers, pods: Callable[..., cri.Pod], scraper: str
) -> None:
    """A scraper that keeps its connection asks and waits; its answer comes when somebody else has woken the pod."""
    one = talker(sleepers, pods, ignore_from=f"{scraper}/32")
    with socket.create_connection((one.ip, PORT), 20, (scraper, 0)) as kept:
        lines = kept.makefile()
        kept.sendall(b"echo one\n")
        assert lines.readline() == "one\n"
        one.reach("ASLEEP")
        kept.sendall(b"echo two\n")
        until(lambda: one.info()["held_frames"] >= 1)
        one.sleeps_on(0.5)
        with Talker(one.ip) as client:
            client.ask("add")
        assert lines.readline() == "two\n"
    one.woke("tcp-connect")


@pytest.mark.annotation("ignore-from")
def test_an_ignored_request_is_not_cut(
    sleepers: Sleepers, pods: Callable[..., cri.Pod], scraper: str
) -> None:
    """A scrape that takes longer than the scaledown-duration is answered first; one that hangs is not waited for."""
    one = talker(sleepers, pods, ignore_from=scraper)
    with socket.create_connection((one.ip, PORT), 20, (scraper, 0)) as sock:
        sock.sendall(b"slow 4\n")
        assert sock.makefile().readline() == "slow\n"
        assert one.info()["sleeps"] == 0
        one.reach("ASLEEP")
        with Talker(one.ip) as client:
            client.ask("add")
        sock.sendall(b"slow 60\n")
        one.reach("ASLEEP", timeout=50)


@pytest.mark.annotation("ignore-ports")
def test_an_ignored_port_neither_keeps_awake_nor_wakes(pods: Callable[..., cri.Pod]) -> None:
    """Its questions are answered awake, and with the next client asleep, also after a restart of the daemon."""
    pod = pods(annotations={plain.SCALEDOWN: "1s", PREFIX + "ignore-ports": "8"})
    one = plain.python(pods, TWO_PORTS, pod=pod)
    with plain.Talk(one.ip, port=8) as metrics:
        assert metrics.ask("1 + 1") == 2
        one.reach("ASLEEP")
        metrics.send("6 * 7")
        time.sleep(0.5)
        assert one.state == "ASLEEP"
        plain.kill_daemon()
        plain.ready()
        one.reach("ASLEEP")
        time.sleep(2)
        assert one.state == "ASLEEP"
        assert one.ask("2 + 3") == 5
        assert metrics.answer() == 42


# --- connections -----------------------------------------------------------------------------------------------------


@pytest.mark.annotation("connections")
def test_wait_waits_until_nobody_is_connected(
    sleepers: Sleepers, pods: Callable[..., cri.Pod]
) -> None:
    """However silent a client is; when it has hung up the pod sleeps."""
    one = talker(sleepers, pods, connections="wait")
    with Talker(one.ip) as client:
        client.ask("add")
        time.sleep(4)
        assert one.info()["sleeps"] == 0
        assert "1 connection(s) of its clients are open" in one.why()
    one.reach("ASLEEP")


class Redis(Lines):
    """A client's connection to redis."""

    def ask(self, *words: str) -> str:
        """Give a command and return the first line of its answer."""
        self.write(" ".join(words))
        return self.read()


@pytest.mark.annotation("connections")
@pytest.mark.parametrize("cause", ["asked", "idle"])
def test_close_hangs_up_on_clients(pods: Callable[..., cri.Pod], cause: str) -> None:
    """A pool reads the end of its connections, no reset, and redis has let go of them; new ones wake it."""
    scaledown = "1h" if cause == "asked" else "2s"
    pod = pods(annotations={plain.SCALEDOWN: scaledown, PREFIX + "connections": "close"})
    one = plain.redis(pods, pod=pod)
    for cycle in range(1, 4):
        pool = [Redis(one.ip, 6379, 10) for _ in range(5)]
        for client in pool:
            assert client.ask("INCR", "asked")[0] == ":"
        if cause == "asked":
            one.sleep()
        one.reach("ASLEEP")
        for client in pool:
            assert client.lines.read() == b""
            client.close()
        assert plain.command(one.ip, "CLIENT", "LIST").count(" addr=") == 1
        assert plain.command(one.ip, "GET", "asked").endswith(str(5 * cycle))
        assert one.reach("RUNNING")["wakes"] == cycle
    one.unharmed()


@pytest.mark.annotation("connections")
def test_close_keeps_a_client_that_waits(pods: Callable[..., cri.Pod]) -> None:
    """Its request is open when somebody puts the pod to sleep; it is answered after the wake."""
    pod = pods(annotations={plain.SCALEDOWN: "1h", PREFIX + "connections": "close"})
    one = plain.redis(pods, pod=pod)
    with Redis(one.ip, 6379, 10) as waits, Redis(one.ip, 6379, 10) as rests:
        assert rests.ask("PING") == "+PONG"
        waits.write("BLPOP queue 0")
        until(lambda: "blocked_clients:1" in plain.command(one.ip, "INFO", "clients"))
        one.sleep()
        assert rests.lines.read() == b""
        assert plain.command(one.ip, "RPUSH", "queue", "job") == ":1"
        assert waits.read() == "*2"
    one.unharmed()


#: Answers the first line of each connection and never reads again.
DEAF = r"""
def serve():
    listener = socket.create_server(("0.0.0.0", 8))
    while True:
        end, _ = listener.accept()
        end.recv(100)
        end.sendall(b"said\n")
        memory[end] = True
threading.Thread(target=serve, daemon=True).start()
"""


@pytest.mark.annotation("connections")
def test_close_of_a_connection_that_nobody_reads(pods: Callable[..., cri.Pod]) -> None:
    """It sleeps half closed, and the application finds its end after the wake."""
    pod = pods(annotations={plain.SCALEDOWN: "1h", PREFIX + "connections": "close"})
    one = plain.python(pods, DEAF, pod=pod)
    with socket.create_connection((one.ip, 8), 10) as client:
        client.sendall(b"hello")
        assert client.recv(100) == b"said\n"
        one.sleep()
        assert client.recv(100) == b""
        one.wake()
        assert one.ask("[end.recv(1) == b'' for end in memory]") == [True]
        one.sleep()
        client.close()
        assert one.ask("[end.recv(1) == b'' for end in memory]") == [True]
    one.unharmed()
