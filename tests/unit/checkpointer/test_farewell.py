"""Pods that are forgotten on a thread, and those who want them back."""

import asyncio
import concurrent.futures
import threading

import pytest

from checkpointer.farewell import Farewell


class Datapath:
    """Forgets when it is told to."""

    def __init__(self):
        self.forgotten = []
        self.go = threading.Event()

    def forget(self, sandbox_id):
        self.go.wait(30)
        if sandbox_id == "broken":
            raise OSError("the namespace cannot be entered")
        self.forgotten.append(sandbox_id)


@pytest.fixture
def datapath():
    return Datapath()


@pytest.fixture
async def farewell(datapath):
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        yield Farewell(datapath, pool)


async def test_who_wants_a_pod_waits_until_it_is_forgotten(datapath, farewell):
    """The loop goes on meanwhile; another pod is free at once."""
    farewell.forget("pod")
    waiting = asyncio.ensure_future(farewell.over("pod"))
    await farewell.over("other")
    await asyncio.sleep(0.01)
    assert not waiting.done()
    datapath.go.set()
    await waiting
    assert datapath.forgotten == ["pod"]


async def test_a_pod_can_be_forgotten_twice(datapath, farewell):
    """One after the other: a container was taken over in between, perhaps."""
    farewell.forget("pod")
    farewell.forget("pod")
    datapath.go.set()
    await farewell.over("pod")
    assert datapath.forgotten == ["pod", "pod"]


async def test_a_pod_that_cannot_be_forgotten_keeps_nobody_waiting(datapath, farewell):
    """It is said in the log."""
    datapath.go.set()
    farewell.forget("broken")
    await farewell.all_over()
    await farewell.over("broken")
