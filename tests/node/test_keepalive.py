"""Connections outlive a sleep that is longer than the patience of both ends: each hears the other's keepalives."""

from __future__ import annotations

import contextlib
import socket
import struct
import time
from collections.abc import Callable

import pytest
from node.clients import NODE, PORT, Listener, Sleeper, Sleepers, Talker, until
from node.sleepers import without_daemon
from node.workloads import image

from dev import cri

KEEPALIVE = (1, 1, 3)
"""Idle time, interval, count: a dead peer is given up in four seconds."""

GO = (15, 15, 9)
"""Those of every connection in Go (net.KeepAliveConfig): it is given up in two and a half minutes."""


TCP_REPAIR = 19  # linux/tcp.h


def keep_alive(sock: socket.socket, chosen: tuple[int, int, int] = KEEPALIVE) -> None:
    """What a program does that wants to know whether its peer lives."""
    names = (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
    for name, value in zip(names, chosen, strict=True):
        sock.setsockopt(socket.IPPROTO_TCP, name, value)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)


def heard(sock: socket.socket) -> int:
    """How many segments a socket has got: tcpi_segs_in of linux/tcp.h."""
    return int(
        struct.unpack("140xI", sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 144))[0]
    )


@pytest.mark.parametrize(
    ("seconds", "keepalive"),
    [
        pytest.param(12, KEEPALIVE, id="seconds"),
        pytest.param(300, GO, id="minutes", marks=[pytest.mark.slow, pytest.mark.timeout(420)]),
    ],
)
def test_connections_live_through_a_long_sleep(
    talker: Sleeper, seconds: int, keepalive: tuple[int, int, int]
) -> None:
    """Whoever sends keepalives is answered, and hears those that the application wants sent; nobody is woken.

    Clients, and a server that the application has called, by IPv4 and IPv6.
    """
    with contextlib.ExitStack() as open_ones, Listener(NODE) as listener:
        eager, silent = (
            [open_ones.enter_context(Talker(ip)) for ip in (talker.ip, talker.ip6)]
            for _ in range(2)
        )
        for client in silent:
            client.ask("keep", *keepalive)
        eager[0].ask("call", NODE, listener.port)
        called = listener.accept()
        for sock in (eager[0].sock, eager[1].sock, called):
            keep_alive(sock, keepalive)
        talker.sleep()
        before = [heard(client.sock) for client in silent]
        talker.sleeps_on(seconds)
        after = [heard(client.sock) for client in silent]
        expected = seconds / keepalive[0]
        for start, end in zip(before, after, strict=True):
            assert expected / 2 <= end - start <= expected + 3
        assert [client.ask("add") for client in (*eager, *silent)] == ["1"] * 4
        called.sendall(b"still here\n")
        eager[0].until_heard("still here")
        eager[0].ask("tell", "too")
        assert called.recv(100) == b"too\n"
    talker.woke("tcp-data")


@pytest.mark.slow
@pytest.mark.timeout(480)
def test_a_program_in_go_keeps_its_connection(
    talker: Sleeper, pods: Callable[..., cri.Pod]
) -> None:
    """Five minutes of the keepalives that Go sends unasked are answered, and wake nobody."""
    words = ["static", "-dial", f"{talker.ip}:{PORT}", "-line", "add", "-rest", "300s"]
    client = pods().run(image("static"), words)
    until(lambda: "answered 1" in client.logs())
    talker.sleep()
    talker.sleeps_on(290)
    assert client.wait("exited", 60).exit_code == 0
    assert "answered 2" in client.logs()
    talker.woke("tcp-data")


def test_two_that_sleep_keep_their_connection(sleepers: Sleepers) -> None:
    """The keepalives of one are answered for the other; neither wakes, and what is said later arrives."""
    caller, server = sleepers.talker(), sleepers.talker()
    with Talker(caller.ip) as client:
        client.ask("call", server.ip, PORT)
        client.ask("tell", "keep", *KEEPALIVE)
        client.until_heard("kept")
        server.sleep()
        caller.sleep()
        caller.sleeps_on(4 * KEEPALIVE[0])
        server.sleeps_on(0)
        client.ask("tell", "add")
        client.until_heard("1")
    caller.woke("tcp-data")
    server.woke("tcp-data")


def test_keepalives_survive_the_daemon(talker: Sleeper) -> None:
    """While it is away the peers' are answered; its successor sends the application's again."""
    with Talker(talker.ip) as client, Talker(talker.ip) as silent:
        keep_alive(client.sock)
        silent.ask("keep", *KEEPALIVE)
        talker.sleep()
        with without_daemon():
            before = heard(client.sock)
            time.sleep(5 * KEEPALIVE[0])
            assert heard(client.sock) - before >= 4
        talker.reach("ASLEEP")
        before = heard(silent.sock)
        talker.sleeps_on(4 * KEEPALIVE[0])
        assert heard(silent.sock) - before >= 2
        assert [client.ask("add"), silent.ask("add")] == ["1", "1"]
    talker.woke("tcp-data")


def test_a_restored_connection_wants_to_know_again(talker: Sleeper) -> None:
    """After the wake the application's own socket sends its keepalives."""
    with Talker(talker.ip) as client:
        client.ask("keep", *KEEPALIVE)
        talker.sleep()
        client.ask("add")
        before = heard(client.sock)
        time.sleep(4 * KEEPALIVE[0])
        assert heard(client.sock) - before >= 2


def test_a_peer_that_is_gone_is_known_after_the_wake(talker: Sleeper) -> None:
    """Its host answers our keepalive with a reset, which the application gets when it is awake."""
    with Talker(talker.ip) as client, Talker(talker.ip) as other:
        client.ask("keep", *KEEPALIVE)
        talker.sleep()
        client.sock.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR, 1)  # it forgets without a word
        client.close()
        talker.sleeps_on(3 * KEEPALIVE[0])
        until(lambda: "ConnectionResetError" in other.ask_json("ended"))
