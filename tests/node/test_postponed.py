"""Traffic that postpones a sleep: questions, replies, what the application asks others, what is not answered yet."""

from __future__ import annotations

import time

import pytest
from node.clients import NODE, SOON, Listener, Sleepers, Talker


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
