"""What TCP clients of a sleeping pod see, and what they do not: a difference to one that is awake."""

from __future__ import annotations

import concurrent.futures
import hashlib
import itertools
import random
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from node.clients import NODE, PATIENCE, PORT, SOON, Listener, Sleeper, Sleepers, Talker, until

from dev import cri
from ttrpc.errors import TtrpcError

MEMORY = 10 << 20
"""Bytes that servers/talker.py has in memory."""

CLIENT = """
import pathlib, socket, sys, time
address, question, go = sys.argv[1:]
while go and not pathlib.Path(go).exists():
    time.sleep(0.01)
with socket.create_connection((address, 7000), 15) as sock:
    sock.sendall(question.encode() + b"\\n")
    print(sock.makefile().readline().strip())
"""


def address_of(sleeper: Sleeper, family: str) -> str:
    """Its address of one family."""
    return sleeper.ip if family == "ipv4" else sleeper.ip6


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


def digest_of(size: int = MEMORY) -> str:
    """Of the beginning of what every talker has in memory."""
    return hashlib.sha256(random.Random(7).randbytes(MEMORY)[:size]).hexdigest()


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


# --- connections that are older than the sleep -----------------------------------------------------------------------


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


# --- when it may sleep -----------------------------------------------------------------------------------------------


def test_questions_postpone_the_sleep(sleepers: Sleepers) -> None:
    """A pod that is asked something within every second of its scaledown-duration does not sleep; then it does."""
    talker = sleepers.talker(scaledown=SOON)
    with Talker(talker.ip) as client:
        client.ask("echo", "awake")
        with talker.stays_awake():
            for _ in range(8):
                client.ask("add")
                time.sleep(0.4)
        talker.reach("ASLEEP")
        assert client.ask("add") == "9"


def test_replies_alone_postpone_the_sleep(sleepers: Sleepers) -> None:
    """A pod that only sends, on a connection of its client, does not sleep before it is done."""
    talker = sleepers.talker(scaledown=SOON)
    with Talker(talker.ip) as client:
        client.ask("echo", "awake")
        with talker.stays_awake():
            client.say("push", 3, 0.3)
            while client.hear() != "pushed-all":
                pass
        talker.reach("ASLEEP")


def test_outbound_traffic_postpones_the_sleep(sleepers: Sleepers) -> None:
    """A pod that receives on a connection it opened itself does not sleep meanwhile."""
    talker = sleepers.talker(scaledown=SOON)
    with Listener(NODE) as there:
        with Talker(talker.ip) as client:
            client.ask("call", there.address, there.port)
        line = there.accept()
        line.sendall(b"news\n")
        talker.reach("RUNNING")
        with talker.stays_awake():
            for _ in range(8):
                line.sendall(b"news\n")
                time.sleep(0.4)
        talker.reach("ASLEEP")


def test_unanswered_request_keeps_awake(sleepers: Sleepers) -> None:
    """A request that takes three times the scaledown-duration is answered before the pod sleeps, one that woke it too."""
    talker = sleepers.talker(scaledown="1s")
    with Talker(talker.ip) as client:
        client.ask("add")
        for _ in range(3):
            asleep = talker.info()["sleeps"]
            assert client.ask("slow", 3) == "slow"
            assert talker.info()["sleeps"] == asleep
            talker.reach("ASLEEP")


def test_unanswered_request_among_others_keeps_awake(sleepers: Sleepers) -> None:
    """A long request is not cut because another client, on the same port, got its answer meanwhile."""
    talker = sleepers.talker(scaledown="1s")
    with Talker(talker.ip) as client, Talker(talker.ip) as other:
        other.ask("add")
        with talker.stays_awake():
            client.say("slow", 4)
            time.sleep(0.3)
            other.ask("add")
            assert client.hear() == "slow"
        talker.reach("ASLEEP")


@pytest.mark.both
def test_idle_pod_sleeps_and_wakes_by_itself(sleepers: Sleepers) -> None:
    """A pod with an open but silent connection falls asleep after its scaledown-duration, again and again."""
    talker = sleepers.talker(scaledown="1s")
    with Talker(talker.ip) as client:
        for count in range(1, 4):
            assert client.ask("add") == str(count)
            talker.reach("ASLEEP")


def test_late_port_is_found(sleepers: Sleepers) -> None:
    """A server that opens its port after some seconds stays awake until then and sleeps later."""
    talker = sleepers.talker("--after", 3, scaledown="1s")
    time.sleep(2)
    assert talker.info()["state"] == "RUNNING"
    with Talker.patiently(talker.ip) as client:
        client.ask("add")
        talker.reach("ASLEEP")
        assert client.ask("add") == "2"


# --- two containers in a pod -----------------------------------------------------------------------------------------


def test_sibling_does_not_wake(sleepers: Sleepers) -> None:
    """A sleeping container is not woken by new and old connections of another one in its pod."""
    first = sleepers.talker(name="first")
    second = sleepers.talker(port=PORT + 1, pod=first.pod, name="second")
    with Talker(first.ip, PORT + 1) as kept, Listener(NODE) as there:
        kept.ask("add")
        first.sleep()
        for count in range(2, 22):
            assert kept.ask("add") == str(count)
            with Talker(first.ip6, PORT + 1) as client:
                assert client.ask("echo", count) == str(count)
        kept.ask("call", there.address, there.port)
        line = there.accept()
        line.sendall(b"news\n")
        kept.until_heard("news")
        first.sleeps_on(0.3)
        assert second.info()["sleeps"] == 0
    with Talker(first.ip) as client:
        assert client.ask("echo", "first") == "first"


def test_sibling_is_served_during_sleeps_and_wakes(sleepers: Sleepers) -> None:
    """A container answers on old and new connections while the other one of its pod sleeps and wakes five times."""
    first = sleepers.talker(name="first")
    second = sleepers.talker(port=PORT + 1, pod=first.pod, name="second")
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        stop: list[bool] = []
        served = pool.submit(serve_until, first.ip, stop)
        try:
            for _ in range(5):
                first.sleep()
                with Talker(first.ip) as client:
                    client.ask("add")
        finally:
            stop.append(True)
        assert served.result(PATIENCE) > 50
    assert second.info()["sleeps"] == 0


def serve_until(address: str, stop: list[bool]) -> int:
    """Ask a sibling on one old connection and on ever new ones; return how many questions were answered."""
    count = 0
    with Talker(address, PORT + 1) as kept:
        while not stop:
            count += 1
            assert kept.ask("add") == str(count)
            with Talker(address, PORT + 1) as client:
                assert client.ask("echo", count) == str(count)
            time.sleep(0.002)
    return count


def test_siblings_talk_to_each_other_over_loopback(sleepers: Sleepers) -> None:
    """A connection between two containers of a pod wakes the one that sleeps, whichever it is."""
    first = sleepers.talker(name="first")
    second = sleepers.talker(port=PORT + 1, pod=first.pod, name="second")
    with Talker(first.ip) as client, Talker(first.ip, PORT + 1) as other:
        client.ask("call", "127.0.0.1", PORT + 1)
        for count in range(1, 4):
            second.sleep()
            client.ask("tell", "add")
            client.until_heard(str(count))
            assert second.reach("RUNNING")["wake_cause"] == "tcp-data"
            first.sleep()
            second.sleep()
            assert other.ask("add") == str(count)
            first.sleeps_on(0.2)
            client.ask("add")


def test_both_containers_sleep_and_wake(sleepers: Sleepers) -> None:
    """Two sleeping containers of a pod are woken one by one, each by its own port."""
    first = sleepers.talker(name="first")
    second = sleepers.talker(port=PORT + 1, pod=first.pod, name="second")
    for count in range(1, 4):
        first.sleep()
        second.sleep()
        with Talker(first.ip, PORT + 1) as client:
            client.ask("add")
        second.woke("tcp-connect", count)
        first.sleeps_on(0.2)
        with Talker(first.ip) as client:
            client.ask("add")
        first.woke("tcp-connect", count)
