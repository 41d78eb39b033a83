"""What `dev/demo` shows: a redis in a pod falls asleep, costs no memory, and answers as if nothing had been.

Runs inside the node. Everything printed is measured; anything that is not as promised ends it with status 1.
"""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from dev import cri
from dev.zeropod import reach, zeropod

POD = "demo/shop"
KEYS = 20_000
REDIS = ["redis-server", "--protected-mode", "no", "--save", "", "--enable-debug-command", "yes"]
BEGUN = time.monotonic()


def main() -> int:
    """Tells the story; 1 if a promise did not hold."""
    say("a pod with redis, annotated zeropod.ctrox.dev/scaledown-duration=5s")
    with cri.Pod(
        "shop", namespace="demo", annotations={"zeropod.ctrox.dev/scaledown-duration": "5s"}
    ) as pod:
        redis = pod.run("localhost/redis:1", REDIS)
        born = redis.status()
        cri.until(lambda: listens(pod.ip))
        kept = Client(pod.ip)
        kept.ask(f"DEBUG POPULATE {KEYS} key 64")
        kept.ask("SET cart apples")
        digest = kept.ask("DEBUG DIGEST")
        awake_ms = timed(lambda: Client(pod.ip).ask("GET cart"))
        show(
            "awake",
            f"{KEYS} keys, {memory(redis)} in the container, a new connection answers in {awake_ms:.1f} ms",
        )

        begun = time.monotonic()
        info = reach(POD, "ASLEEP", 60)
        show(
            "asleep",
            f"after {time.monotonic() - begun:.1f} s without traffic, in {info['sleep_ms']:.0f} ms",
        )
        show(
            "",
            f"{memory(redis)} in the container, an image of {info['image_bytes'] / 1e6:.1f} MB on disk",
        )
        expect("Kubernetes still sees it Running", redis.state == "running")

        first = timed(lambda: expect("its data", Client(pod.ip).ask("GET cart") == "apples"))
        tell("a new connection", first, awake_ms)
        zeropod("sleep", POD)
        expect(
            "a connection from before both sleeps",
            timed_answer(kept, "GET cart", "apples", awake_ms),
        )
        zeropod("sleep", POD)
        begun = time.monotonic()
        answer = redis.exec(["redis-cli", "DBSIZE"])
        show("woken", f"by an exec: DBSIZE {answer.out.strip()} in {1e3 * (time.monotonic() - begun):.0f} ms "
             "(starting redis-cli in the container included)")  # fmt: skip
        expect("all keys", answer.out.strip() == str(KEYS + 1))
        expect("every byte of the data set", kept.ask("DEBUG DIGEST") == digest)
        now = redis.status()
        expect(
            "no restart",
            (now.started_at, now.attempt, now.state) == (born.started_at, born.attempt, "running"),
        )
        print(
            "\n$ zeropod list\n"
            + run_text("list")
            + "\n\n$ zeropod why demo/shop\n"
            + run_text("why", POD)
        )
    say("done: nothing was lost, nothing was restarted")
    return 0


class Client:
    """A connection to redis, by its inline protocol."""

    def __init__(self, address: str) -> None:
        self._socket = socket.create_connection((address, 6379), timeout=30)
        self._file = self._socket.makefile("rb")

    def ask(self, command: str) -> str:
        """Sends one command and returns its answer."""
        self._socket.sendall(command.encode() + b"\r\n")
        line = self._file.readline().decode().strip()
        if line.startswith("$"):
            line = self._file.read(int(line[1:]) + 2).decode().strip()
        return line.lstrip("+:")


def listens(address: str) -> bool:
    """Whether redis has started."""
    try:
        return Client(address).ask("PING") == "PONG"
    except ConnectionRefusedError:
        return False


def memory(container: cri.Container) -> str:
    """What its processes hold, as its memory cgroup accounts it (without page cache)."""
    for line in Path(f"/proc/{container.pid}/cgroup").read_text(encoding="ascii").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "memory":
            text = Path(f"/sys/fs/cgroup/memory{path}/memory.stat").read_text(encoding="ascii")
            return size(
                int(
                    next(
                        row.split()[1] for row in text.splitlines() if row.startswith("total_rss ")
                    )
                )
            )
        if not controllers and Path(f"/sys/fs/cgroup{path}/memory.stat").exists():
            text = Path(f"/sys/fs/cgroup{path}/memory.stat").read_text(encoding="ascii")
            return size(
                int(next(row.split()[1] for row in text.splitlines() if row.startswith("anon ")))
            )
    return "?"


def size(count: int) -> str:
    """Bytes for people."""
    return f"{count / 1e6:.1f} MB" if count >= 1e6 else f"{count / 1e3:.0f} KB"


def timed(action: Callable[[], object]) -> float:
    """Milliseconds that an action took."""
    begun = time.perf_counter()
    action()
    return 1e3 * (time.perf_counter() - begun)


def timed_answer(client: Client, command: str, wanted: str, awake_ms: float) -> bool:
    """Whether an old connection answers right; says how long it took."""
    answers: list[str] = []
    took = timed(lambda: answers.append(client.ask(command)))
    tell("a connection from before the sleep", took, awake_ms)
    return answers == [wanted]


def tell(what: str, took: float, awake_ms: float) -> None:
    """One wake."""
    show("woken", f"by {what}: first byte after {took:.1f} ms (awake: {awake_ms:.1f} ms)")


def run_text(*words: str) -> str:
    """What the command prints for people."""
    return subprocess.run(
        ["zeropod", *words], capture_output=True, text=True, check=True
    ).stdout.strip()


def say(text: str) -> None:
    """A heading with the time since the start."""
    print(f"\n[{time.monotonic() - BEGUN:5.1f} s] {text}", flush=True)


def show(state: str, text: str) -> None:
    """A line of the story."""
    print(f"  {state:<7} {text}", flush=True)


def expect(what: str, holds: bool) -> None:
    """A promise; the story ends where one does not hold."""
    print(f"          {'ok' if holds else 'NOT SO'}: {what}", flush=True)
    if not holds:
        sys.exit(1)


if __name__ == "__main__":
    sys.exit(main())
