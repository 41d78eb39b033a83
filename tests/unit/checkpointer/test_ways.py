"""In which way an actor brings an application to rest and back, and what a daemon that goes makes of it."""

from unittest import mock

import pytest
from unit.checkpointer.acting import become, idle, want

from checkpointer import (
    doors,
    errors,
    frost,
    lifecycle,
    off,
    sleep,
    wake,
)
from checkpointer.kinds import Kind
from checkpointer.lifecycle import Mode, State


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
