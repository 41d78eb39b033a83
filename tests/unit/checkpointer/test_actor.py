"""What an actor makes of answers, mistakes and bad timing; whatever touches a process is a stand-in."""

import asyncio
import threading
from unittest import mock

import pytest
from unit.checkpointer.acting import become, idle, want

from checkpointer import (
    errors,
    lifecycle,
    supervisor,
    wake,
)
from checkpointer.container import Container
from checkpointer.kinds import Kind
from checkpointer.lifecycle import State


async def test_who_asks_between_the_commit_and_its_announcement_is_heard(actor):
    """The sleep has looked for the last time, and its answer is in the queue behind the question."""
    become(actor, State.SLEEPING)
    actor.post(lifecycle.WakeAsked("exec"))
    actor.post(lifecycle.Slept())
    await idle(actor)

    assert [call.args[1] for call in actor.observed.call_args_list] == [
        State.SLEEPING,
        State.ASLEEP,
        State.WAKING,
    ]
    assert actor.container.times.wake_cause == "exec"


async def test_what_is_under_way_ends_before_what_was_asked_for_begins(actor):
    """Half a wake cannot be turned into a sleep."""
    become(actor, State.WAKING)
    asked = asyncio.create_task(
        actor.bring_to(lifecycle.AT_REST, lifecycle.SleepAsked("asked"), 30)
    )
    await asyncio.sleep(0)
    actor.post(lifecycle.Woke())

    assert await asked is State.ASLEEP
    assert [call.args[1] for call in actor.observed.call_args_list] == [
        State.WAKING,
        State.RUNNING,
        State.SLEEPING,
    ]


async def test_who_does_not_get_there_in_time_is_told_where_it_is(actor):
    """And asks it once more when that is over, as everybody does."""
    become(actor, State.SLEEPING)
    came = await actor.bring_to({State.RUNNING}, lifecycle.WakeAsked("asked"), 0.01)

    assert came is State.SLEEPING
    assert actor.container.off_cause == "asked"


async def test_a_wake_that_waits_for_a_thread_takes_that_long(actor, monkeypatch):
    """Its client waits as well, and in a rush that is most of what it waits for."""
    free = threading.Event()

    def run(container, _):
        container.times.wake = {"criu": 1.0}

    monkeypatch.setattr(wake, "run", run)
    become(actor, State.ASLEEP)
    blocked = actor._moves._pool.submit(free.wait)
    actor.post(lifecycle.WakeAsked("udp"))
    await actor.caught_up()
    await asyncio.sleep(0.1)
    free.set()
    await idle(actor)

    assert blocked.result()
    phases = actor.container.times.wake
    assert phases["criu"] == 1.0
    assert phases["queue"] > 90
    assert actor.engine.tally.wakes["image"].sum == pytest.approx(1e-3 * sum(phases.values()))


async def test_a_mistake_costs_one_event(actor):
    """The next one is dealt with, and who waits for both is not left waiting."""
    actor._observe = mock.Mock(side_effect=[ValueError, None, None])
    actor.post(lifecycle.SleepAsked("asked"))
    async with asyncio.timeout(30):
        await idle(actor)

    assert actor.container.life.state is State.ASLEEP


async def test_what_cannot_be_looked_at_is_looked_at_again(actor, monkeypatch):
    """Any mistake in a look would else be the last look."""
    odd = mock.Mock(side_effect=errors.CheckpointerError("odd"))
    monkeypatch.setattr(supervisor.Supervisor, "application", odd)
    actor.watch()
    await asyncio.sleep(0.05)
    await idle(actor)

    assert actor._lookout.looks
    assert "odd" in actor.container.busy


async def test_a_failed_container_ends_although_its_image_cannot_be_kept(actor):
    """And whoever waits in an exec goes on, at once."""
    actor.engine.store.fail.side_effect = OSError
    become(actor, State.ASLEEP)
    actor.post(lifecycle.Lost("gone"))
    await idle(actor)

    Container.fail.assert_called_once()
    actor.engine.execs.release.assert_called_with("id")


async def test_a_container_is_forgotten_although_its_remains_cannot_be_removed(actor):
    """The node would keep its actor, its slot in the maps and its record."""
    actor.container.hold = mock.Mock(
        fd=-1, dropped=0, answered=0, close=mock.Mock(side_effect=OSError)
    )
    actor.engine.store.drop.side_effect = OSError
    actor.post(lifecycle.Exited())
    await idle(actor)

    actor.container.pod.abandon.assert_called_once_with("id")
    actor.ended.assert_called_once()


@pytest.mark.parametrize(("retry", "tries"), [(True, lifecycle.MAX_WAKES), (False, 1)])
async def test_a_drain_that_cannot_end_well_ends(actor, monkeypatch, retry, tries):
    """The application is gone by then: it is restored again, or the runtime gets the container."""
    drained = mock.Mock(side_effect=errors.RestoreError("no", (), None, retry=retry))
    monkeypatch.setattr(wake, "drained", drained)
    monkeypatch.setattr(lifecycle, "WAKE_BACKOFF", (0.0, 0.0))
    actor.container.drain = mock.Mock()
    become(actor, State.RUNNING)
    actor.watch()
    await idle(actor)

    assert drained.call_count == tries
    assert actor.container.drain is None
    assert actor.container.life.state is State.GONE
    Container.fail.assert_called_once()


async def test_a_drain_that_has_no_room_waits_for_it(actor, monkeypatch):
    """However long: its image is whole, and its application is gone."""
    full = errors.NoRoom("full", kind=Kind.DISK_FULL)
    drained = mock.Mock(side_effect=[full] * (lifecycle.MAX_WAKES + 1) + [None])
    monkeypatch.setattr(wake, "drained", drained)
    monkeypatch.setattr(lifecycle, "WAKE_BACKOFF", (0.0, 0.0))
    actor.container.drain = mock.Mock()
    become(actor, State.RUNNING)
    actor.watch()
    await idle(actor)

    assert drained.call_count == lifecycle.MAX_WAKES + 2
    assert actor.container.life.state is State.RUNNING


async def test_who_watches_hears_why_a_wake_is_held(actor, monkeypatch, caplog):
    """Once for each kind, not with each of its tries, nor when the numbers in its reason have changed."""
    full = [errors.NoRoom(f"{free} MB left", kind=Kind.NO_ROOM_NODE) for free in (3, 3, 2, 5)]
    other = errors.NoRoom("full", kind=Kind.DISK_FULL)
    monkeypatch.setattr(wake, "run", mock.Mock(side_effect=[*full, other, None]))
    monkeypatch.setattr(lifecycle, "WAKE_BACKOFF", (0.0, 0.0))
    become(actor, State.ASLEEP)
    actor.post(lifecycle.WakeAsked("udp"))
    while actor.container.life.state is not State.RUNNING:
        await asyncio.sleep(0.001)
    await idle(actor)

    states = [call.args[1] for call in actor.observed.call_args_list]
    assert states == [State.ASLEEP, State.WAKING, State.WAKING, State.WAKING]
    assert [record.message for record in caplog.records].count("wake.held") == 2
    assert actor.container.life.failed_wakes == 0


async def test_who_waits_for_a_sibling_takes_no_thread(actor):
    """There is one thread here: a container that waits on it for its turn would keep the pod's others from waking."""
    turn = actor.engine.pod_locks["pod"]
    await turn.acquire()
    actor.post(lifecycle.SleepAsked("idle"))
    await actor.caught_up()
    async with asyncio.timeout(30):
        await asyncio.get_running_loop().run_in_executor(actor._moves._pool, int)

    assert actor.container.life.state is State.SLEEPING
    turn.release()
    await idle(actor)

    assert actor.container.life.state is State.ASLEEP


async def test_who_was_never_to_sleep_is_looked_at_when_that_has_changed(actor):
    """Nothing else would: it has no look to come, and no wake that would bring one."""
    want(actor, scaledown=0.0)
    actor.watch()
    assert not actor._lookout.looks
    want(actor, scaledown=1.0)
    actor.renewed()
    assert actor._lookout.looks


async def test_a_policy_that_changes_asleep_is_looked_at_after_the_wake(actor):
    """There is nothing to look at."""
    become(actor, State.ASLEEP)
    actor.renewed()
    assert not actor._lookout.looks
