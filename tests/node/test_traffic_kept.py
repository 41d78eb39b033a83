"""Connections that are older than the sleep: they go on after it, and data on them wakes."""

from __future__ import annotations

import hashlib
import random
import socket
import time
from collections.abc import Callable

import pytest
from node.clients import (
    NODE,
    PORT,
    Listener,
    Sleeper,
    Sleepers,
    Talker,
    address_of,
    digest_of,
    until,
)

from dev import cri
from ttrpc.errors import TtrpcError


@pytest.mark.both
@pytest.mark.parametrize("family", ["ipv4", "ipv6"])
def test_kept_connection_goes_on(talker: Sleeper, family: str) -> None:
    """A connection with a counter goes on over ten sleeps: each question wakes, no answer is wrong."""
    with Talker(address_of(talker, family)) as client:
        assert client.ask("add") == "1"
        for cycle in range(1, 11):
            talker.sleep()
            assert client.ask("add") == str(cycle + 1)
            talker.woke("tcp-data", cycle)


def test_many_kept_connections_go_on(talker: Sleeper) -> None:
    """Fifty connections are answered after a sleep, each with its own counter."""
    clients = [Talker(talker.ip) for _ in range(50)]
    try:
        for count, client in enumerate(clients):
            for _ in range(count % 3):
                client.ask("add")
        talker.sleep()
        for client in clients:
            client.say("add")
        for count, client in enumerate(clients):
            assert client.hear() == str(count % 3 + 1)
    finally:
        for client in clients:
            client.close()


def test_burst_on_a_kept_connection_wakes(talker: Sleeper) -> None:
    """As much as the window takes, sent at once to a sleeping pod, arrives whole and in order."""
    data = random.Random(2).randbytes(1 << 20)
    with Talker(talker.ip) as client:
        client.ask("add")
        for _ in range(3):
            talker.sleep()
            client.say("sink", len(data))
            client.sock.sendall(data)
            assert client.hear() == hashlib.sha256(data).hexdigest()


def test_small_segments_stay_in_order(talker: Sleeper) -> None:
    """Hundreds of one-line segments sent while the pod sleeps and wakes are answered in order."""
    with Talker(talker.ip) as client:
        client.ask("add")
        talker.sleep()
        for number in range(2, 602):
            client.say("add")
            if number % 50 == 0:
                time.sleep(0.005)
        assert [client.hear() for _ in range(600)] == [str(n) for n in range(2, 602)]


def test_outbound_connection_wakes(talker: Sleeper) -> None:
    """Data on a connection that the application opened itself wakes it and arrives."""
    with Listener(NODE) as there:
        with Talker(talker.ip) as client:
            client.ask("call", there.address, there.port)
        line = there.accept()
        talker.sleep()
        line.sendall(b"news\n")
        talker.reach("RUNNING")
        talker.woke("tcp-data")
        with Talker(talker.ip) as client:
            client.until_heard("news")
            client.ask("tell", "thanks")
        assert line.recv(100) == b"thanks\n"


def test_outbound_connection_survives_a_wake_by_another(talker: Sleeper) -> None:
    """A connection that the application opened can still be used by it after somebody else woke it."""
    with Listener(NODE) as there:
        with Talker(talker.ip) as client:
            client.ask("call", there.address, there.port)
        line = there.accept()
        for number in range(3):
            talker.sleep()
            with Talker(talker.ip) as client:
                client.ask("tell", number)
            assert line.recv(100) == f"{number}\n".encode()


def test_connection_of_the_application_to_itself(talker: Sleeper) -> None:
    """A connection with both ends in the application works after a sleep."""
    with Talker(talker.ip) as client:
        client.ask("call", "127.0.0.1", PORT)
        client.ask("tell", "add")
        client.until_heard("1")
        for count in range(2, 5):
            talker.sleep()
            client.ask("tell", "add")
            client.until_heard(str(count))


def test_reply_that_waits_for_its_reader(sleepers: Sleepers) -> None:
    """A client that reads late gets the whole reply, far beyond its window, without having to ask again."""
    talker = sleepers.talker(scaledown="1s")
    size = 8 << 20
    with Talker(talker.ip) as client:
        client.say("source", size)
        time.sleep(3)
        assert hashlib.sha256(client.lines.read(size)).hexdigest() == digest_of(size)
        assert client.hear() == "sent"
        talker.reach("ASLEEP")


def test_connection_that_its_client_has_half_closed(talker: Sleeper) -> None:
    """A client that shut its side down before the sleep gets the reply that comes after it."""
    with Talker(talker.ip) as waiting:
        waiting.say("part")
        waiting.sock.shutdown(socket.SHUT_WR)
        with Talker(talker.ip) as client:
            until(lambda: client.ask("parted") == "1")
        talker.sleep()
        with Talker(talker.ip) as client:
            client.ask("farewell", "goodbye")
        assert waiting.lines.read() == b"goodbye\n"


def test_ended_connections_do_not_stand_in_the_way(talker: Sleeper) -> None:
    """A server wakes beside the TIME_WAITs of connections that it closed itself, and a kept connection with it."""
    with Talker(talker.ip) as kept:
        for count in range(1, 4):
            leave(talker, 20)
            talker.sleep()
            assert kept.ask("add") == str(count)
    leave(talker)


def test_ended_connections_of_an_exclusive_port_postpone_the_sleep(
    pods: Callable[..., cri.Pod],
) -> None:
    """Without SO_REUSEADDR it could not be restored beside its TIME_WAITs: it stays awake, says why, and works on."""
    talker = Sleepers(pods).talker("--exclusive")
    with Talker.patiently(talker.ip) as kept:
        leave(talker)
        with pytest.raises(TtrpcError, match="SO_REUSEADDR"):
            talker.sleep()
        assert kept.ask("add") == "1"
        assert "SO_REUSEADDR" in talker.why()
    talker.unharmed()


def leave(talker: Sleeper, times: int = 1) -> None:
    """Make connections that the server closes first."""
    for _ in range(times):
        with Talker(talker.ip) as client:
            assert client.ask("leave") == "left"
            assert client.lines.read() == b""
