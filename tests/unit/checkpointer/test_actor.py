"""What an actor makes of answers, mistakes and bad timing; whatever touches a process is a stand-in."""

import asyncio
import concurrent.futures
import dataclasses
import threading
from collections import defaultdict
from types import SimpleNamespace
from unittest import mock

import pytest

from checkpointer import actor as actors
from checkpointer import (
    containers,
    doors,
    errors,
    frost,
    lifecycle,
    off,
    sleep,
    supervisor,
    wake,
)
from checkpointer.container import Container
from checkpointer.kinds import Kind
from checkpointer.lifecycle import Mode, State
from checkpointer.policy import Policy
from checkpointer.tally import NodeTally

RECORD = containers.Record(
    "id", "pod", "p", "n", "u", "c", pid=1, start_time=1, policy=Policy(scaledown=1.0)
)


@pytest.fixture
async def actor(monkeypatch):
    """An actor of a container that runs, with nothing behind it."""
    container = Container(RECORD, mock.Mock())
    engine = SimpleNamespace(
        execs=mock.Mock(),
        store=mock.Mock(),
        drains=None,
        pod_locks=defaultdict(asyncio.Lock),
        tally=NodeTally(),
    )
    monkeypatch.setattr(Container, "fail", mock.Mock())
    monkeypatch.setattr(sleep, "run", lambda *_: None)
    monkeypatch.setattr(wake, "run", lambda *_: None)
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        observed, ended = mock.Mock(), mock.Mock()
        made = actors.Actor(container, engine, pool, observed, ended)
        made.engine, made.observed, made.ended = engine, observed, ended
        yield made
        await made.close()


def become(actor, state):
    actor.container.life = dataclasses.replace(actor.container.life, state=state)


async def idle(actor):
    """Until nothing is under way."""
    await actor.caught_up()
    while actor._jobs:
        await actor._jobs.ended()
        await actor.caught_up()


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
    async with asyncio.timeout(5):
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


async def test_who_watches_hears_why_a_wake_is_held(actor, monkeypatch):
    """Once, not with each of its tries."""
    full = errors.NoRoom("full", kind=Kind.DISK_FULL)
    monkeypatch.setattr(wake, "run", mock.Mock(side_effect=[full, full, full, None]))
    monkeypatch.setattr(lifecycle, "WAKE_BACKOFF", (0.0, 0.0))
    become(actor, State.ASLEEP)
    actor.post(lifecycle.WakeAsked("udp"))
    while actor.container.life.state is not State.RUNNING:
        await asyncio.sleep(0.001)
    await idle(actor)

    states = [call.args[1] for call in actor.observed.call_args_list]
    assert states == [State.ASLEEP, State.WAKING, State.WAKING]
    assert actor.container.life.failed_wakes == 0


async def test_who_waits_for_a_sibling_takes_no_thread(actor):
    """There is one thread here: a container that waits on it for its turn would keep the pod's others from waking."""
    turn = actor.engine.pod_locks["pod"]
    await turn.acquire()
    actor.post(lifecycle.SleepAsked("idle"))
    await actor.caught_up()
    async with asyncio.timeout(5):
        await asyncio.get_running_loop().run_in_executor(actor._moves._pool, int)

    assert actor.container.life.state is State.SLEEPING
    turn.release()
    await idle(actor)

    assert actor.container.life.state is State.ASLEEP


def want(actor, **policy):
    """Have the container's owner want something."""
    record = actor.container.record
    wanted = dataclasses.replace(record.policy, **policy)
    actor.container.record = dataclasses.replace(record, policy=wanted)


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


@pytest.fixture
def moved(monkeypatch):
    """Which of the ways to rest and back were gone."""
    done = mock.Mock()
    monkeypatch.setattr(frost, "freeze", done.freeze)
    monkeypatch.setattr(frost, "thaw", done.thaw)
    monkeypatch.setattr(off, "end", done.end)
    monkeypatch.setattr(off, "start", done.start)
    monkeypatch.setattr(sleep, "run", done.sleep)
    monkeypatch.setattr(wake, "run", done.wake)
    return done


def names(moved):
    return [call[0] for call in moved.mock_calls]


async def test_an_application_without_checkpoints_is_ended_and_started(actor, moved):
    """Its owner wants nothing of its memory kept."""
    want(actor, disable_checkpointing=True)
    actor.post(lifecycle.SleepAsked("idle"))
    await idle(actor)

    assert actor.container.life.state is State.ASLEEP

    actor.post(lifecycle.WakeAsked("udp"))
    await idle(actor)

    assert names(moved) == ["end", "start"]
    assert (actor.container.times.sleeps, actor.container.times.wakes) == (1, 1)


@pytest.mark.parametrize(
    "error",
    [
        errors.Refused("io_uring"),
        errors.Refused("full", kind=Kind.DISK_LOW),
        errors.DumpError("criu failed"),
        OSError("odd"),
    ],
)
async def test_what_cannot_be_checkpointed_is_frozen_where_its_owner_wants_that(
    actor, moved, error
):
    """With the reason that it would else stay awake for; thawed it is frozen again without another try so soon."""
    want(actor, on_failure="freeze")
    moved.sleep.side_effect = error
    for _ in range(2):
        actor.post(lifecycle.SleepAsked("idle"))
        await idle(actor)

        assert actor.container.life.state is State.FROZEN
        assert actor.container.life.reason == errors.reason_of(error)

        actor.post(lifecycle.WakeAsked("udp"))
        await idle(actor)

    assert names(moved) == ["sleep", "freeze", "thaw", "freeze", "thaw"]
    assert actor.container.life.failed_sleeps == 1
    assert actor.container.tally.frozen.total() == 2


@pytest.mark.parametrize(
    ("error", "state"),
    [
        (doors.CalledOff("udp"), State.RUNNING),
        (errors.Refused("no port", kind=Kind.NO_PORT), State.RUNNING),
        (errors.Refused("TIME_WAIT", kind=Kind.TIME_WAIT), State.RUNNING),
        (errors.DumpError("gone", outcome=errors.Outcome.LOST), State.GONE),
    ],
)
async def test_what_is_otherwise_in_a_moment_is_not_frozen(actor, moved, error, state):
    """Nor what is wanted, nor what is gone, nor what nobody could wake."""
    want(actor, on_failure="freeze")
    moved.sleep.side_effect = error
    actor.post(lifecycle.SleepAsked("idle"))
    await idle(actor)

    assert names(moved) == ["sleep"]
    assert actor.container.life.state is state


async def test_what_cannot_be_frozen_either_stays_awake_with_both_reasons(actor, moved):
    """Neither attempt costs the application anything."""
    want(actor, on_failure="freeze")
    moved.sleep.side_effect = errors.Refused("io_uring")
    moved.freeze.side_effect = errors.CellError("no cgroup")
    actor.post(lifecycle.SleepAsked("idle"))
    await idle(actor)

    assert actor.container.life.state is State.RUNNING
    assert "io_uring" in actor.container.life.reason
    assert "no cgroup" in actor.container.life.reason


async def test_a_packet_during_the_freeze_calls_it_off(actor, moved):
    """That is no failure, and the next try is a checkpoint's again when its time has come."""
    want(actor, on_failure="freeze")
    moved.sleep.side_effect = errors.Refused("io_uring")
    moved.freeze.side_effect = doors.CalledOff("tcp-data")
    actor.post(lifecycle.SleepAsked("idle"))
    await idle(actor)

    assert (actor.container.life.state, actor.container.life.cause) == (State.RUNNING, "tcp-data")
    assert actor.container.life.failed_sleeps == 0


async def test_a_daemon_that_goes_thaws(actor, moved):
    """It may be gone for good, and nobody else could."""
    become(actor, State.FROZEN)
    actor.container.mode = Mode.FROZEN
    await actor.close()

    assert names(moved) == ["thaw"]
    assert actor.container.life.state is State.RUNNING
    assert actor.container.life.cause == "daemon-stop"
    assert not actor._lookout.looks


async def test_a_daemon_that_goes_wakes_on_until_it_is_done(actor, moved):
    """Pages of another wake may take seconds to come in; clients of what sleeps do not wait for that."""
    become(actor, State.ASLEEP)
    actor.retire()
    actor.post(lifecycle.WakeAsked("udp"))
    await idle(actor)

    assert names(moved) == ["wake"]
    assert actor.container.life.state is State.RUNNING

    actor._idle()
    await idle(actor)

    assert names(moved) == ["wake"]


async def test_a_sleep_that_a_going_daemon_could_not_stop_is_a_sleep(actor, moved):
    """Nobody wants the application: it is not woken again only because the call came after the commit."""
    become(actor, State.SLEEPING)
    actor.retire()
    actor.post(lifecycle.Slept())
    await idle(actor)

    assert names(moved) == []
    assert actor.container.life.state is State.ASLEEP


async def test_a_going_daemon_does_not_hide_that_somebody_wants_the_application(actor, moved):
    """An exec has no packet in a queue that would tell it again."""
    become(actor, State.SLEEPING)
    actor.post(lifecycle.WakeAsked("exec"))
    await idle(actor)
    actor.retire()
    actor.post(lifecycle.Slept())
    await idle(actor)

    assert names(moved) == ["wake"]
