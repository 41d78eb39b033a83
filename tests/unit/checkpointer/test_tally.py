"""What is counted."""

import pytest

from checkpointer import lifecycle
from checkpointer.kinds import Kind
from checkpointer.lifecycle import Life, Mode, State
from checkpointer.tally import NodeTally, Observations, Tally


def after(*events, start=State.RUNNING):
    """The tally after events, one a second."""
    life, tally = Life(start), Tally()
    for second, event in enumerate(events):
        before = life
        life, _ = lifecycle.step(life, event)
        tally.note(before, event, life, epoch=1000.0 + second, ticks=float(second + 1))
    return tally


def test_a_histogram_counts_cumulatively_and_keeps_the_sum():
    """As Prometheus wants it: a value on a bound belongs to that bucket."""
    seen = Observations((0.1, 1))
    for value in (0.05, 0.1, 0.5, 7):
        seen.add(value)

    assert seen.buckets() == [("0.1", 2.0), ("1", 3.0), ("+Inf", 4.0)]
    assert seen.sum == pytest.approx(7.65)


def test_a_sleep_and_a_wake_are_counted_with_their_cause_and_moment():
    """The cause of a wake is that of the first packet."""
    tally = after(
        lifecycle.SleepAsked("idle"),
        lifecycle.Slept(),
        lifecycle.WakeAsked("tcp-connect"),
        lifecycle.WakeAsked("exec"),
        lifecycle.Woke(),
    )

    assert (tally.slept_at, tally.woke_at) == (1001.0, 1004.0)
    assert tally.wakes == {"tcp-connect": 1}


def test_a_clock_that_is_set_back_takes_no_time_asleep_away():
    """A counter that falls is a restart to Prometheus, which counts all of it again."""
    life, tally = Life(State.SLEEPING), Tally()
    after = lifecycle.step(life, lifecycle.Slept())[0]
    tally.note(life, lifecycle.Slept(), after, epoch=1000.0, ticks=50.0)
    assert tally.asleep_until(60.0) == 10.0
    life = lifecycle.step(after, lifecycle.WakeAsked("exec"))[0]
    awake = lifecycle.step(life, lifecycle.Woke())[0]
    tally.note(life, lifecycle.Woke(), awake, epoch=400.0, ticks=70.0)

    assert (tally.woke_at, tally.asleep_until(99.0)) == (400.0, 20.0)


def test_what_goes_wrong_is_counted_by_kind():
    """A sleep called off is no failure."""
    tally = after(
        lifecycle.SleepAsked("idle"),
        lifecycle.SleepCalledOff("tcp-data"),
        lifecycle.SleepAsked("idle"),
        lifecycle.SleepRefused("it uses io_uring", Kind.UNSUPPORTED),
        lifecycle.SleepAsked("idle"),
        lifecycle.SleepFailed("no space left", Kind.DISK_FULL),
    )

    assert tally.called_off == {"tcp-data": 1}
    assert tally.refused == {"unsupported": 1}
    assert tally.sleep_failures == {"disk-full": 1}


def test_a_wake_that_waits_for_room_is_counted_once():
    """However often it is tried."""
    tally = after(
        lifecycle.WakeAsked("exec"),
        lifecycle.WakeHeld("no memory", Kind.NO_ROOM_NODE),
        lifecycle.WakeHeld("no memory", Kind.NO_ROOM_NODE),
        lifecycle.WakeFailed("criu failed", Kind.CRIU_FAILED),
        start=State.ASLEEP,
    )

    assert tally.held == {"no-room-node": 1}
    assert tally.wake_failures == {"criu-failed": 1}


def test_each_reason_to_wait_is_counted_once_in_a_wake():
    """Also behind a failure, and behind another reason; in the next wake it is another one."""
    held = lifecycle.WakeHeld("no memory", Kind.NO_ROOM_NODE)
    tally = after(
        lifecycle.WakeAsked("exec"),
        lifecycle.WakeFailed("criu failed", Kind.CRIU_FAILED),
        held,
        lifecycle.WakeHeld("no tasks", Kind.NO_ROOM_TASKS),
        held,
        lifecycle.Woke(),
        lifecycle.SleepAsked("idle"),
        lifecycle.Slept(),
        lifecycle.WakeAsked("exec"),
        held,
        start=State.ASLEEP,
    )

    assert tally.held == {"no-room-node": 2, "no-room-tasks": 1}


def test_an_answer_that_means_nothing_any_more_is_not_counted():
    """The container ended before its wake did."""
    tally = after(lifecycle.Exited(), lifecycle.Woke(), lifecycle.SleepFailed("late"))

    assert not tally.wakes
    assert not tally.sleep_failures


def test_the_phases_of_the_node_add_up():
    """To the sum of all sleeps and wakes."""
    tally = NodeTally()
    tally.woke(Mode.IMAGE, {"room": 1.0, "criu": 12.0})
    tally.woke(Mode.IMAGE, {"room": 2.0, "criu": 10.0, "replay": 5.0})
    tally.woke(Mode.OFF, {"listen": 9000.0})

    parts = sum(seen.sum for (mode, _), seen in tally.wake.items() if mode == "image")
    assert parts == pytest.approx(tally.wakes["image"].sum)
    assert tally.wakes["image"].buckets()[-1] == ("+Inf", 2.0)
    assert tally.wakes["off"].sum == pytest.approx(9.0)


@pytest.mark.parametrize(
    ("events", "counted"),
    [
        ([lifecycle.Exited()], {}),
        (
            [lifecycle.Lost("no image", Kind.IMAGE_MISSING), lifecycle.Exited()],
            {"image-missing": 1},
        ),
        (
            [
                lifecycle.WakeAsked("udp"),
                *[lifecycle.WakeFailed("no", Kind.CRIU_FAILED)] * lifecycle.MAX_WAKES,
                lifecycle.Exited(),
            ],
            {"criu-failed": 1},
        ),
    ],
)
def test_what_is_given_up_is_counted_once_and_stays(events, counted):
    """The container's own series end at that moment, before anybody may have seen them."""
    life, tally = Life(State.ASLEEP), NodeTally()
    for event in events:
        before, life = life, lifecycle.step(life, event)[0]
        tally.note(before, life)

    assert life.state is State.GONE
    assert tally.given_up == counted
