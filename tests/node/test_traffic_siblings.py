"""Two containers in a pod: one sleeps while the other one is served."""

from __future__ import annotations

import concurrent.futures
import time

from node.clients import NODE, PATIENCE, PORT, Listener, Sleepers, Talker


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
