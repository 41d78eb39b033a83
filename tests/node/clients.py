"""Pods that sleep and those who talk to them: what the tests of traffic share."""

from __future__ import annotations

import concurrent.futures
import contextlib
import hashlib
import json
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from node import sleepers
from node.lines import Closing, Lines
from node.sleepers import SCALEDOWN

from dev import cri, patience
from ttrpc.errors import TtrpcError

SERVERS = Path(__file__).parent / "servers"

PORT = 7000

NODE = "10.88.0.1"
"""The node's own address on the pods' bridge."""

ENOUGH = 30.0
"""Seconds for anything that must happen; a machine under load may need a few."""

PATIENCE = patience.seconds(ENOUGH)
"""The same on this machine, for sockets and threads."""

SOON = f"{patience.seconds(1.0):g}s"
"""A scaledown-duration that is over soon, and longer than this machine stands still."""

MEMORY = 10 << 20
"""Bytes that servers/talker.py has in memory."""


def server(name: str, *arguments: object) -> list[str]:
    """The command line of one of our python servers, for the python test image."""
    text = (SERVERS / name).read_text()
    return ["python3", "-u", "-c", text, *map(str, arguments)]


def until(condition: Callable[[], object], seconds: float = ENOUGH) -> None:
    """Wait for a condition; fail when it does not come."""
    patience.until(condition, seconds)


class Sleeper(sleepers.Sleeper):
    """A managed container that clients talk to."""

    def __init__(self, container: cri.Container) -> None:
        super().__init__(container)
        self.pod = container.pod
        self.ip6 = container.pod.ip6
        self.met = 0
        # Not managed at all, a test would see the same traffic and prove nothing.
        self.reach("RUNNING")

    def try_sleep(self) -> bool:
        """Have it put to sleep in the middle of traffic; False when it was called off."""
        try:
            self.sleep()
        except TtrpcError:
            # Called off is no failure: nothing may have gone wrong with criu.
            now = self.info()
            assert now["failed_sleeps"] == 0, now
            return False
        return True

    def sleeps_on(self, seconds: float = 1.0) -> None:
        """See that nothing wakes it for a while."""
        before = self.info()
        assert before["state"] == "ASLEEP", before
        time.sleep(seconds)
        after = self.info()
        assert (after["state"], after["wakes"]) == ("ASLEEP", before["wakes"]), after

    @contextlib.contextmanager
    def stays_awake(self) -> Iterator[None]:
        """See that it does not fall asleep meanwhile; that it did before, on a slow machine, does not count."""
        before = self.info()["sleeps"]
        yield
        now = self.info()
        assert now["sleeps"] == before, now

    def woke(self, cause: str, times: int = 1) -> None:
        """See that it was woken so often, the last time for this reason."""
        now = self.reach("RUNNING")
        assert (now["wakes"], now["wake_cause"]) == (times, cause), now

    def check(self) -> None:
        """See that neither Kubernetes nor `zeropod list` would have noticed anything."""
        self.unharmed()
        now = self.info()
        assert (now["failed_sleeps"], now["failed_wakes"]) == (0, 0), now

    @contextlib.contextmanager
    def during_dump(self, delay: float, action: Callable[[], object]) -> Iterator[None]:
        """Do something once, `delay` seconds after a checkpoint has begun; the supervisor's name tells.

        If none was begun, because a client of before was still there, it is done all the same; `met` counts the others.
        """
        comm = Path(f"/proc/{self.pid}/comm")
        done = threading.Event()

        def watch() -> None:
            while b"armed" not in comm.read_bytes() and not done.is_set():
                time.sleep(0.0005)
            if not done.is_set():
                self.met += 1
                time.sleep(delay)
            action()

        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            watcher = pool.submit(watch)
            try:
                yield
            finally:
                done.set()
            watcher.result(PATIENCE)


class Sleepers:
    """Starts managed containers, and checks all of them when the test is over."""

    def __init__(self, pods: Callable[..., cri.Pod]) -> None:
        self._pods = pods
        self.all: list[Sleeper] = []

    def pod(self, scaledown: str = "1h") -> cri.Pod:
        """A pod whose containers are managed."""
        return self._pods(annotations={SCALEDOWN: scaledown})

    def start(
        self,
        *words: str,
        pod: cri.Pod | None = None,
        name: str = "",
        scaledown: str = "1h",
        **described: Any,
    ) -> Sleeper:
        """A managed container of the python test image, in a pod of its own or in a given one."""
        pod = pod or self.pod(scaledown)
        container = pod.run("localhost/python:1", list(words), name=name, **described)
        self.all.append(Sleeper(container))
        return self.all[-1]

    def talker(self, *arguments: object, port: int = PORT, **described: Any) -> Sleeper:
        """A container that runs servers/talker.py, listening (unless it was told to wait)."""
        sleeper = self.start(*server("talker.py", port, *arguments), **described)
        if not arguments:
            with Talker.patiently(sleeper.ip, port):
                pass
        return sleeper

    def datagrams(self, port: int = PORT, **described: Any) -> Sleeper:
        """A container that runs servers/datagrams.py, answering."""
        security = {"add": ["NET_ADMIN"]}  # for its SO_RCVBUFFORCE
        sleeper = self.start(*server("datagrams.py", port), security=security, **described)
        with Datagrams(sleeper.ip, port) as client:
            until(lambda: client.ask("ready", 0.1))
        return sleeper

    def check(self) -> None:
        """See that no container was harmed."""
        for sleeper in self.all:
            sleeper.check()


def digest_of(size: int = MEMORY) -> str:
    """Of the beginning of what every talker has in memory."""
    return hashlib.sha256(random.Random(7).randbytes(MEMORY)[:size]).hexdigest()


def address_of(sleeper: Sleeper, family: str) -> str:
    """Its address of one family."""
    return sleeper.ip if family == "ipv4" else sleeper.ip6


class Talker(Lines):
    """A TCP client of servers/talker.py."""

    def __init__(self, address: str, port: int = PORT) -> None:
        super().__init__(address, port, ENOUGH)

    @classmethod
    def patiently(cls, address: str, port: int = PORT) -> Talker:
        """Connect as soon as somebody listens."""
        found: list[Talker] = []

        def connected() -> bool:
            with contextlib.suppress(ConnectionRefusedError):
                found.append(cls(address, port))
            return bool(found)

        until(connected)
        return found[0]

    def say(self, *words: object) -> None:
        """Send a line."""
        self.write(" ".join(map(str, words)))

    def hear(self) -> str:
        """Receive a line."""
        return self.read()

    def ask(self, *words: object) -> str:
        """Send a question and return its answer."""
        self.say(*words)
        return self.hear()

    def ask_json(self, word: str) -> Any:
        """Send a question whose answer is JSON."""
        return json.loads(self.ask(word))

    def until_heard(self, line: str) -> None:
        """Wait until this is the last line that came over a connection the application opened."""
        until(lambda: self.ask_json("heard")[-1][-1:] == [line])


class Datagrams(Closing):
    """A UDP client of servers/datagrams.py."""

    def __init__(self, address: str, port: int = PORT) -> None:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self.sock = socket.socket(family, socket.SOCK_DGRAM)
        self.sock.connect((address, port))

    def send(self, text: str) -> None:
        """Send one datagram."""
        self.sock.send(text.encode())

    def ask(self, text: str, seconds: float = PATIENCE) -> str:
        """Send one datagram and return its answer, "" when none comes."""
        self.sock.settimeout(seconds)
        try:
            self.send(text)
            return self.sock.recv(65536).decode()
        except (TimeoutError, ConnectionRefusedError):
            return ""

    def close(self) -> None:
        """Give up the socket."""
        self.sock.close()


class Listener(Closing):
    """Somebody on the node whom an application calls."""

    def __init__(self, address: str) -> None:
        self._listener = socket.create_server((address, 0))
        self._listener.settimeout(PATIENCE)
        self.address, self.port = address, self._listener.getsockname()[1]
        self._accepted: list[socket.socket] = []

    def accept(self) -> socket.socket:
        """The next caller."""
        sock, _ = self._listener.accept()
        sock.settimeout(PATIENCE)
        self._accepted.append(sock)
        return sock

    def close(self) -> None:
        """Hang up, on callers too."""
        for sock in (*self._accepted, self._listener):
            sock.close()
