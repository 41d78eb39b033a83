"""Datagrams and sleeping pods."""

from __future__ import annotations

import functools
import json
import socket
import time

import pytest
from node.clients import NODE, PATIENCE, SOON, Datagrams, Sleepers, Talker, server, until


@pytest.mark.both
@pytest.mark.parametrize("family", ["ipv4", "ipv6"])
def test_datagram_wakes(sleepers: Sleepers, family: str) -> None:
    """A datagram wakes a pod that has no TCP port, is answered, and is seen with its sender's address."""
    sleeper = sleepers.datagrams()
    sleeper.sleep()
    with Datagrams(sleeper.ip if family == "ipv4" else sleeper.ip6) as client:
        assert client.ask("who hello") == f"{client.sock.getsockname()[0]} hello"
    sleeper.woke("udp")


def test_datagram_only_pod_falls_asleep(sleepers: Sleepers) -> None:
    """A pod that listens on UDP only sleeps when no datagram came for its scaledown-duration, not before."""
    sleeper = sleepers.datagrams(scaledown=SOON)
    with Datagrams(sleeper.ip) as client:
        assert client.ask("who again")
        with sleeper.stays_awake():
            for _ in range(8):
                assert client.ask("who again")
                time.sleep(0.4)
        sleeper.reach("ASLEEP")
        assert client.ask("who again")
    sleeper.woke("udp")


@pytest.mark.both
def test_ten_thousand_datagrams_across_a_wake(sleepers: Sleepers) -> None:
    """10,000 numbered datagrams, sent from before a wake until long after it, arrive complete and in order."""
    sleeper = sleepers.datagrams()
    with Datagrams(sleeper.ip) as client:
        sleeper.sleep()
        send_numbers(client, 10_000)
        assert received(client, 10_000) == [10_000, True, [9_999]]
    sleeper.woke("udp")


def test_datagrams_across_sleeps(sleepers: Sleepers) -> None:
    """Numbered datagrams sent without a pause while the pod is put to sleep again and again arrive complete."""
    sleeper = sleepers.datagrams()
    with Datagrams(sleeper.ip) as client:
        for attempt in range(10):
            numbers = functools.partial(send_numbers, client, 100, attempt * 100)
            with sleeper.during_dump(attempt * 0.004, numbers):
                sleeper.try_sleep()
            sleeper.reach("RUNNING")
        assert received(client, 1000) == [1000, True, [999]]


def send_numbers(client: Datagrams, count: int, first: int = 0) -> None:
    """Send numbered datagrams, ten each 4 ms: slow enough for the bounds of a queue."""
    for number in range(first, first + count):
        client.send(f"number {number}")
        if number % 10 == 9:
            time.sleep(0.004)


def received(client: Datagrams, count: int) -> list[object]:
    """How many arrived, whether in order, and the last one."""
    found: list[object] = []

    def complete() -> bool:
        found[:] = json.loads(client.ask("numbers") or "[0]")
        return found[0] == count

    try:
        until(complete, 30)
    except TimeoutError:
        pass
    return found


def test_large_datagrams_wake(sleepers: Sleepers) -> None:
    """A datagram in many fragments wakes and arrives whole, by IPv4 and IPv6."""
    sleeper = sleepers.datagrams()
    text = "x" * 20_000
    for address in (sleeper.ip, sleeper.ip6):
        sleeper.sleep()
        with Datagrams(address) as client:
            assert client.ask("who " + text).split()[1] == text


@pytest.mark.parametrize("connected", ["connect", "sendto"])
def test_answer_to_its_own_question_wakes(sleepers: Sleepers, connected: str) -> None:
    """An answer to a datagram that the application sent from a port of its own wakes it and arrives."""
    sleeper = sleepers.talker()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.settimeout(PATIENCE)
        server.bind((NODE, 0))
        with Talker(sleeper.ip) as client:
            client.ask("query", connected, *server.getsockname())
        question, asker = server.recvfrom(100)
        sleeper.sleep()
        server.sendto(b"answer-to-" + question, asker)
        sleeper.woke("udp")
        with Talker(sleeper.ip) as client:
            client.until_heard("answer-to-question")


def test_datagrams_to_a_sibling_do_not_wake(sleepers: Sleepers) -> None:
    """Datagrams for another container of the pod are answered by it and do not wake the one that sleeps."""
    first = sleepers.datagrams(name="first")
    sleepers.datagrams(port=7001, pod=first.pod, name="second")
    sleepers.talker(port=7002, pod=first.pod, name="third")
    first.sleep()
    with Datagrams(first.ip, 7001) as client, Talker(first.ip, 7002) as other:
        for number in range(20):
            assert client.ask(f"who {number}").endswith(f" {number}")
            other.ask("add")
    first.sleeps_on(0.3)


@pytest.mark.parametrize("connected", ["connect", "sendto"])
def test_a_datagram_clients_port_is_no_port(sleepers: Sleepers, connected: str) -> None:
    """A worker that only asks, by datagrams from a port that the kernel chose, listens on nothing and stays awake."""
    sleeper = sleepers.start(*server("asker.py", NODE, connected), scaledown="1s")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as listener:
        listener.settimeout(PATIENCE)
        listener.bind((NODE, 7777))
        question, asker = listener.recvfrom(100)
        for _ in range(3):
            listener.sendto(b"answer-to-" + question, asker)
            time.sleep(1)
    now = sleeper.info()
    assert (now["sleeps"], list(now["ports"])) == (0, [])
    assert "listens on no port" in sleeper.why()
