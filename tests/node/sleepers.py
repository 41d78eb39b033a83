"""Managed applications for the tests of sleep and wake, and a quick way to the daemon.

The application evaluates Python expressions that it is sent over TCP, a line each, and answers in JSON: a test asks
it anything, and whatever it answers after a wake was in its memory before.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from node.lines import Lines

from checkpointer import api, settings
from dev import cri, patience
from ttrpc import blocking
from ttrpc.errors import TtrpcError

SCALEDOWN = "zeropod.ctrox.dev/scaledown-duration"

PORT = 7

IMAGES = settings.Settings().state_dir / "images"

#: For `python`: has it answer datagrams on port 9, too.
DATAGRAMS = """
def answer():
    plain = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    plain.bind(("0.0.0.0", 9))
    while True:
        plain.sendto(*plain.recvfrom(100))
threading.Thread(target=answer, daemon=True).start()
"""

SERVER = """
import ctypes, glob, json, os, resource, signal, socket, socketserver, subprocess, sys, threading, time
memory = {}
class Ask(socketserver.StreamRequestHandler):
    def handle(self):
        for line in self.rfile:
            try:
                answer = eval(line, globals())
            except Exception as error:
                answer = repr(error)
            self.wfile.write(json.dumps(answer, default=repr).encode() + b"\\n")
class Server(socketserver.ThreadingTCPServer):
    address_family = socket.AF_INET6
    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 64
server = Server(("::", PORT), Ask)
SETUP
print("up", flush=True)
server.serve_forever(0.1)
"""


class Talk(Lines):
    """One connection to a `SERVER`."""

    def __init__(self, address: str, timeout: float = 20.0, port: int = PORT) -> None:
        super().__init__(address, port, timeout)

    def ask(self, expression: str) -> Any:
        """What the application makes of a Python expression."""
        self.send(expression)
        return self.answer()

    def send(self, expression: str) -> None:
        """Ask without waiting."""
        self.write(expression)

    def answer(self) -> Any:
        """The next answer."""
        return json.loads(self.read())


class Sleeper:
    """A container that sleeps and wakes."""

    def __init__(self, container: cri.Container) -> None:
        self.container = container
        self.pid = container.pid
        self.born = container.status()
        pod = container.pod
        self.ip = pod.ip
        self.reference = f"{pod.namespace}/{pod.name}/{container.name}"

    def sleep(self) -> dict[str, Any]:
        """Put it to sleep; what the daemon then says of it. It is an error if it does not sleep."""
        return call("Sleep", self.reference)[0]

    def wake(self) -> dict[str, Any]:
        """Wake it by the daemon's API."""
        return call("Wake", self.reference)[0]

    def info(self) -> dict[str, Any]:
        """What the daemon says of it; state "none" if it does not know it."""
        found = call("List", self.reference)
        return found[0] if found else {"state": "none"}

    @property
    def state(self) -> str:
        """What `zeropod list` shows."""
        return str(self.info()["state"])

    def why(self) -> str:
        """The paragraph of `zeropod why`."""
        return str(call("Why", self.reference)[0]["text"])

    def reach(self, *states: str, timeout: float = 30.0) -> dict[str, Any]:
        """Wait until it is in one of these states; a daemon that is away is waited for.

        Raises:
            TimeoutError: it is in another one.
        """
        found: dict[str, Any] = {"state": "unknown"}

        def reached() -> bool:
            with contextlib.suppress(TtrpcError):
                found.update(self.info())
            return found["state"] in states

        try:
            patience.until(reached, timeout)
        except TimeoutError as error:
            raise TimeoutError(f"not {states} after {timeout} s: {found}") from error
        return found

    def talk(self, timeout: float = 20.0) -> Talk:
        """A new connection to it."""
        return Talk(self.ip, timeout)

    def ask(self, expression: str, timeout: float = 20.0) -> Any:
        """Ask over a connection of its own."""
        with self.talk(timeout) as talk:
            return talk.ask(expression)

    def supervisor(self) -> str:
        """State of its PID 1 as that shows it: run, armed or asleep."""
        return comm(self.pid).removeprefix("zeropod:")

    def tree(self) -> list[int]:
        """Pids of its application's processes."""
        return descendants(self.pid)

    def image(self) -> Path:
        """Where its image is while it sleeps."""
        return IMAGES / self.container.id

    def unharmed(self) -> None:
        """Fail unless the runtime still sees the container that was started: running, never restarted."""
        now = self.container.status()
        assert (now.state, now.attempt) == ("running", 0), now.reason
        assert now.started_at == self.born.started_at
        assert self.container.pid == self.pid


def code(setup: str = "", port: int = PORT) -> str:
    """A `SERVER`'s code."""
    return SERVER.replace("PORT", str(port)).replace("SETUP", setup)


def python(
    pods: Callable[..., cri.Pod],
    setup: str = "",
    *,
    scaledown: str = "1h",
    pod: cri.Pod | None = None,
    port: int = PORT,
    **described: Any,
) -> Sleeper:
    """Start a `SERVER`.

    Args:
        pods: The fixture.
        setup: Code that it runs before it says "up".
        scaledown: The annotation; by default it sleeps only when told to.
        pod: Where; by default in a new one.
        port: What it listens on.
        described: More for `cri.Pod.run`.
    """
    pod = pod or pods(annotations={SCALEDOWN: scaledown})
    sleeper = Sleeper(
        pod.run("localhost/python:1", ["python3", "-c", code(setup, port)], **described)
    )
    cri.until(lambda: "up" in sleeper.container.logs() or not alive(sleeper.pid), 30)
    assert alive(sleeper.pid), sleeper.container.logs()
    known(sleeper)
    return sleeper


def redis(
    pods: Callable[..., cri.Pod],
    *,
    scaledown: str = "1h",
    pod: cri.Pod | None = None,
    **described: Any,
) -> Sleeper:
    """Start a redis that takes DEBUG commands."""
    pod = pod or pods(annotations={SCALEDOWN: scaledown})
    words = [
        "redis-server",
        "--protected-mode",
        "no",
        "--save",
        "",
        "--enable-debug-command",
        "yes",
    ]
    sleeper = Sleeper(pod.run("localhost/redis:1", words, **described))
    cri.until(lambda: "Ready to accept" in sleeper.container.logs(), 30)
    known(sleeper)
    return sleeper


def known(sleeper: Sleeper) -> None:
    """Wait until the daemon has heard of a container that was just started."""
    cri.until(lambda: sleeper.state not in {"none", "STARTING"}, 30)


def command(address: str, *words: str, timeout: float = 20.0) -> str:
    """What redis answers to one command."""
    with socket.create_connection((address, 6379), patience.seconds(timeout)) as stream:
        stream.sendall(" ".join(words).encode() + b"\r\n")
        return stream.recv(65536).decode().strip()


# --- the daemon -------------------------------------------------------------------------------------------------------


def call(method: str, reference: str = "", timeout: float = 90.0) -> list[dict[str, Any]]:
    """Ask the daemon as `zeropod` does, without the 0.2 s that a program takes to start.

    Raises:
        TtrpcError: what it answered, or that it is away.
    """
    namespace, pod, container = [*reference.split("/"), "", "", ""][:3]
    query = api.m.Query(namespace=namespace, pod=pod, container=container)
    answer = api.m.Explanations if method == "Why" else api.m.Infos
    with blocking.Client(settings.Settings().socket) as client:
        found = client.call(api.SERVICE, method, query, answer, timeout=patience.seconds(timeout))
    if method == "Why":
        return [{"state": one.info.state, "text": one.text} for one in found.explanations]
    return [
        {field.name: getattr(one, field.name) for field in one.DESCRIPTOR.fields}
        for one in found.containers
    ]


def helpers() -> dict[str, int]:
    """The daemon's long-lived helpers: name and pid."""
    with blocking.Client(settings.Settings().socket) as client:
        found = client.call(
            api.SERVICE, "Status", api.m.Empty(), api.m.Status, timeout=patience.seconds(10)
        )
    return dict(found.helpers)


def service_pid(name: str) -> int:
    """The pid of one of the node's services, which runs now."""
    found: list[int] = []

    def runs() -> bool:
        with contextlib.suppress(OSError, ValueError):
            pid = int(Path(f"/run/node/{name}.pid").read_text())
            if alive(pid):
                found[:] = [pid]
        return bool(found)

    cri.until(runs, 30)
    return found[0]


def kill_daemon() -> None:
    """SIGKILL it; the node starts it again."""
    os.kill(service_pid("daemon"), signal.SIGKILL)


def ready(timeout: float = 30.0) -> None:
    """Wait until the daemon answers."""

    def answers() -> bool:
        try:
            helpers()
        except TtrpcError:
            return False
        return True

    cri.until(answers, timeout)


@contextlib.contextmanager
def without_daemon() -> Iterator[None]:
    """While the context lasts there is no daemon; it was killed. Afterwards it is back."""
    hold = Path("/run/node/hold/daemon")
    pid = service_pid("daemon")
    hold.touch()
    try:
        os.kill(pid, signal.SIGKILL)
        cri.until(lambda: not alive(pid), 30)
        yield
    finally:
        hold.unlink(missing_ok=True)
        ready()


# --- processes --------------------------------------------------------------------------------------------------------


def alive(pid: int) -> bool:
    """Whether a process exists and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def inside(one: Sleeper) -> list[int]:
    """Pids of all processes in a container, those of execs too."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if one.container.id in (entry / "cgroup").read_text():
                found.append(int(entry.name))
    return found


def comm(pid: int) -> str:
    """A process's name; "" if it is gone."""
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def children(pid: int) -> list[int]:
    """Direct children of all threads of a process."""
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            found += map(int, task.read_text().split())
    return found


def descendants(pid: int) -> list[int]:
    """Everything below a process."""
    found = []
    for child in children(pid):
        found += [child, *descendants(child)]
    return found
