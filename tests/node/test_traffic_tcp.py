"""New TCP connections to a sleeping pod: they wake it, and its clients see no difference to one that is awake."""

from __future__ import annotations

import concurrent.futures
import hashlib
import itertools
import random
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from node.clients import (
    PATIENCE,
    PORT,
    Sleeper,
    Sleepers,
    Talker,
    address_of,
    digest_of,
    until,
)

from dev import cri

CLIENT = """
import pathlib, socket, sys, time
address, question, go = sys.argv[1:]
while go and not pathlib.Path(go).exists():
    time.sleep(0.01)
with socket.create_connection((address, 7000), 15) as sock:
    sock.sendall(question.encode() + b"\\n")
    print(sock.makefile().readline().strip())
"""


# --- new connections -------------------------------------------------------------------------------------------------


@pytest.mark.both
@pytest.mark.parametrize("family", ["ipv4", "ipv6"])
def test_connection_from_the_node_wakes(talker: Sleeper, family: str) -> None:
    """A new connection from the node wakes the pod and is answered, by either address family."""
    talker.sleep()
    with Talker(address_of(talker, family)) as client:
        assert client.ask("echo", "hello") == "hello"
    talker.woke("tcp-connect")


@pytest.mark.parametrize("family", ["ipv4", "ipv6"])
def test_connection_from_a_pod_wakes(
    talker: Sleeper, pods: Callable[..., cri.Pod], family: str
) -> None:
    """A new connection from another pod wakes this one, and the application sees the caller's own address."""
    other = pods()
    caller = other.run("localhost/python:1", ["sleep", "1000"])
    talker.sleep()
    answer = caller.exec(["python3", "-c", CLIENT, address_of(talker, family), "who", ""])
    assert answer.out.strip() == (other.ip if family == "ipv4" else other.ip6), answer.err
    talker.woke("tcp-connect")


@pytest.mark.parametrize("address", ["127.0.0.1", "::1", "localhost", "own-ipv4", "own-ipv6"])
def test_connection_over_loopback_wakes(sleepers: Sleepers, tmp_path: Path, address: str) -> None:
    """A program that was in the container before it fell asleep reaches it over lo, and wakes it."""
    mount = {"container_path": "/shared", "host_path": str(tmp_path)}
    talker = sleepers.talker(mounts=[mount])
    address = {"own-ipv4": talker.ip, "own-ipv6": talker.ip6}.get(address, address)
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        words = ["python3", "-c", CLIENT, address, "echo here", "/shared/go"]
        inside = pool.submit(talker.container.exec, words)
        until(lambda: "/shared/go" in processes_of(talker))
        talker.sleep()
        talker.sleeps_on(0.3)
        (tmp_path / "go").touch()
        assert inside.result(PATIENCE).out.strip() == "here"
    talker.woke("tcp-connect")


def processes_of(sleeper: Sleeper) -> str:
    """The command lines of everything in a container."""
    groups = Path(f"/proc/{sleeper.container.pid}/cgroup").read_text().split(":")
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if (entry / "cgroup").read_text().split(":")[-1] == groups[-1]:
                found.append((entry / "cmdline").read_bytes().decode(errors="replace"))
        except OSError:
            continue
    return "\n".join(found)


def test_client_address_is_seen(talker: Sleeper) -> None:
    """The application sees the address of the client whose connection woke it, not one of ours."""
    talker.sleep()
    with Talker(talker.ip) as client:
        assert client.ask("who") == client.sock.getsockname()[0]
    talker.sleep()
    with Talker(talker.ip6) as client:
        assert client.ask("who") == client.sock.getsockname()[0]


def test_half_close_on_the_waking_connection(talker: Sleeper) -> None:
    """A client that sends, shuts its side down and only then waits gets the whole reply."""
    text = "x" * 100_000
    talker.sleep()
    with Talker(talker.ip) as client:
        client.sock.sendall(b"all\n" + text.encode())
        client.sock.shutdown(socket.SHUT_WR)
        assert client.hear() == text
        assert client.lines.read() == b""
    talker.woke("tcp-connect")


@pytest.mark.both
def test_ten_megabytes_each_way_on_the_waking_connection(talker: Sleeper) -> None:
    """Ten megabytes each way over the connection that woke the pod arrive unchanged."""
    data = random.Random(1).randbytes(10 << 20)
    talker.sleep()
    with Talker(talker.ip) as client:
        client.say("sink", len(data))
        client.sock.sendall(data)
        assert client.hear() == hashlib.sha256(data).hexdigest()
        client.say("source", len(data))
        back = client.lines.read(len(data))
        assert hashlib.sha256(back).hexdigest() == digest_of()
        assert client.hear() == "sent"
    talker.woke("tcp-connect")


def test_memory_is_intact(talker: Sleeper) -> None:
    """Ten megabytes of memory hash to the same after five wakes."""
    for _ in range(5):
        talker.sleep()
        with Talker(talker.ip) as client:
            assert client.ask("digest") == digest_of()


def test_sleep_right_after_a_lazy_wake(talker: Sleeper) -> None:
    """A sleep that is asked for while pages still come in waits for them; a large memory is intact after five."""
    with Talker(talker.ip) as kept:
        assert kept.ask("grow", 100 << 20) == "grown"
        digest = kept.ask("digest")
        for count in range(1, 6):
            talker.sleep()
            assert kept.ask("add") == str(count)
        assert kept.ask("digest") == digest


# --- what does not wake ----------------------------------------------------------------------------------------------


def test_close_does_not_wake_and_is_seen_later(talker: Sleeper) -> None:
    """A kept connection that its client closes does not wake; the application sees the close after the next wake."""
    client = Talker(talker.ip)
    client.ask("add")
    before = ended(talker)
    talker.sleep()
    client.close()
    talker.sleeps_on()
    # Each question is a connection of its own, which has ended by the next one.
    questions = itertools.count(1)
    until(lambda: len(ended(talker)) - len(before) >= 1 + next(questions))
    talker.woke("tcp-connect")


def test_reset_does_not_wake_and_is_seen_later(talker: Sleeper) -> None:
    """A kept connection that its client resets does not wake; the application sees it after the next wake."""
    client = Talker(talker.ip)
    client.ask("add")
    talker.sleep()
    client.reset()
    talker.sleeps_on()
    until(lambda: "ConnectionResetError" in ended(talker))
    talker.woke("tcp-connect")


def ended(talker: Sleeper) -> list[str]:
    """How its connections ended so far, but the one that asks."""
    with Talker(talker.ip) as client:
        found: list[str] = client.ask_json("ended")
        return found


def test_connect_to_a_closed_port_does_not_wake(talker: Sleeper) -> None:
    """A port that nobody listens on is refused as ever, and does not wake."""
    talker.sleep()
    with pytest.raises(ConnectionRefusedError):
        Talker(talker.ip, PORT + 1)
    talker.sleeps_on(0.3)
