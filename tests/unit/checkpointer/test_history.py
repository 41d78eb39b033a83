"""What watchers are told."""

import asyncio

import pytest

from checkpointer import api, history
from checkpointer.history import History


def told(transitions):
    return [(transition.sequence, transition.info.id) for transition in transitions]


@pytest.fixture
async def lately():
    return History()


async def test_who_comes_to_watch_asks_where_to_begin(lately):
    """What was before is not told."""
    lately.add(api.m.Info(id="a"), "RUNNING", 1.0)

    assert await lately.after(2**63) == ([], 1)


async def test_a_watcher_waits_for_the_next_transition(lately):
    """And all watchers hear of it at once."""
    waiting = [asyncio.create_task(lately.after(0)) for _ in range(3)]
    await asyncio.sleep(0)
    lately.add(api.m.Info(id="a"), "RUNNING", 1.0)
    for task in waiting:
        transitions, last = await task

        assert (told(transitions), last) == ([(1, "a")], 1)


async def test_nothing_happens_for_long(lately, monkeypatch):
    """The watcher asks again."""
    monkeypatch.setattr(history, "LONG_POLL", 0.01)

    assert await lately.after(0) == ([], 0)


async def test_who_falls_behind_misses_some(lately):
    """And goes on with what is left."""
    for number in range(history.KEPT + 5):
        lately.add(api.m.Info(id=str(number)), "RUNNING", 1.0)
    transitions, last = await lately.after(0)

    assert len(transitions) == history.KEPT
    assert (transitions[0].sequence, last) == (6, history.KEPT + 5)
