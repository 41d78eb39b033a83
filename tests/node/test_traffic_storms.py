"""Many at once, and at the worst moment: while the checkpoint is being taken."""

from __future__ import annotations

import concurrent.futures
import random
import threading
import time

import pytest
from node.clients import PATIENCE, Sleeper, Sleepers, Talker


def visit(address: str, word: str, pause: float = 0.0) -> bool:
    """One connection with one question; raises what a client would see."""
    with Talker(address) as client:
        time.sleep(pause)
        return client.ask("echo", word) == word


def sleep_again_and_again(sleeper: Sleeper, seconds: float = 5.0) -> int:
    """Have it put to sleep whenever it is awake; return how often that came to its end: once at least, given patience."""
    begun, slept = time.monotonic(), 0
    while time.monotonic() - begun < (seconds if slept else PATIENCE):
        slept += sleeper.try_sleep()
        sleeper.reach("RUNNING", "ASLEEP")
        time.sleep(0.05)
    return slept


@pytest.mark.both
def test_two_hundred_at_once(talker: Sleeper) -> None:
    """200 connections that are opened at once to a sleeping pod are all answered."""
    talker.sleep()
    barrier = threading.Barrier(200)

    def one(number: int) -> bool:
        barrier.wait(PATIENCE)
        return visit(talker.ip, str(number))

    with concurrent.futures.ThreadPoolExecutor(200) as pool:
        assert all(pool.map(one, range(200)))
    talker.woke("tcp-connect")


@pytest.mark.both
@pytest.mark.parametrize("defer", [False, True], ids=["accept", "defer-accept"])
def test_storm_of_connects_during_dumps(sleepers: Sleepers, defer: bool) -> None:
    """Clients that connect again and again while the pod is being put to sleep see no reset, and all are answered."""
    talker = sleepers.talker(*["--defer"] * defer)
    Talker.patiently(talker.ip).close()
    stop = threading.Event()

    def storm(seed: int) -> int:
        rng, count = random.Random(seed), 0
        while not stop.is_set():
            # Some send at once, some keep a half-open connection of TCP_DEFER_ACCEPT waiting.
            assert visit(talker.ip, str(count), rng.choice([0, 0, 0.02]))
            count += 1
            time.sleep(
                rng.random()
            )  # a dump takes a tenth of a second, and ends only between two of all clients
        return count

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        clients = [pool.submit(storm, seed) for seed in range(4)]
        try:
            slept = sleep_again_and_again(talker)
        finally:
            stop.set()
        assert all(client.result(PATIENCE) > 1 for client in clients)
    assert slept, "no sleep was ever completed, so that nothing was proved"


@pytest.mark.parametrize("defer", [False, True], ids=["accept", "defer-accept"])
def test_connects_in_every_moment_of_a_dump(sleepers: Sleepers, defer: bool) -> None:
    """Five clients that connect at a given moment of a checkpoint, from its first to its last, are answered."""
    talker = sleepers.talker(*["--defer"] * defer)
    Talker.patiently(talker.ip).close()
    with concurrent.futures.ThreadPoolExecutor(5) as pool:
        for moment in range(20):

            def five(moment: int = moment) -> None:
                pauses = [0.0, 0.0, 0.0, 0.01, 0.05]
                visits = [pool.submit(visit, talker.ip, f"m{moment}", p) for p in pauses]
                assert all(each.result(PATIENCE) for each in visits)

            with talker.during_dump(moment * 0.003, five):
                talker.try_sleep()
            talker.reach("RUNNING")
    assert talker.met >= 3


def test_data_in_every_moment_of_a_dump(talker: Sleeper) -> None:
    """A question sent at a given moment of a checkpoint, from its first to its last, is answered once."""
    with Talker(talker.ip) as client:
        for moment in range(30):
            with talker.during_dump(moment * 0.002, lambda: client.say("add")):
                talker.try_sleep()
            assert client.hear() == str(moment + 1)
    assert talker.met >= 3


def test_questions_without_a_pause_during_sleeps(talker: Sleeper) -> None:
    """Kept connections that ask at random moments get every answer, whatever sleeps are tried meanwhile."""
    stop = threading.Event()

    def ask(seed: int) -> int:
        rng, count = random.Random(seed), 0
        with Talker(talker.ip) as client:
            while not stop.is_set():
                count += 1
                assert client.ask("add") == str(count)
                time.sleep(rng.random() * 0.4)
        return count

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        clients = [pool.submit(ask, seed) for seed in range(4)]
        try:
            slept = sleep_again_and_again(talker)
        finally:
            stop.set()
        assert all(client.result(PATIENCE) > 1 for client in clients)
    assert slept, "no sleep was ever completed, so that nothing was proved"


def test_request_that_comes_as_the_sleep_begins_is_answered(sleepers: Sleepers) -> None:
    """A request that comes when the pod is found idle, and takes a while, is answered without anybody else's help."""
    talker = sleepers.talker(scaledown="1s")
    with Talker(talker.ip) as client:
        for attempt in range(8):
            assert client.ask("slow", 0.3) == "slow"
            time.sleep(0.98 + attempt * 0.02)
        assert client.ask("slow", 0.3) == "slow"


def test_eight_pods_at_once(sleepers: Sleepers) -> None:
    """Eight sleeping pods that are called at the same moment all answer."""
    talkers = [sleepers.talker() for _ in range(8)]
    for talker in talkers:
        talker.sleep()
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        assert all(pool.map(lambda talker: visit(talker.ip, "here"), talkers))
    for talker in talkers:
        talker.woke("tcp-connect")
