"""The life of a container, event by event."""

import itertools

import pytest

from checkpointer import lifecycle as lc
from checkpointer.kinds import Kind
from checkpointer.lifecycle import Life, State, step
from checkpointer.why import CAUSES

EVENTS = (
    lc.SleepAsked("idle"),
    lc.Slept(),
    lc.Froze("io_uring"),
    lc.SleepCalledOff("tcp-connect"),
    lc.SleepRefused("io_uring"),
    lc.SleepFailed("disk full"),
    lc.WouldSleep("idle"),
    lc.WakeAsked("exec"),
    lc.Woke(),
    lc.WakeFailed("no memory"),
    lc.WakeHeld("full"),
    lc.RetryWake(),
    lc.Lost("gone"),
    lc.Exited(),
)


def run(life, *events):
    effects = []
    for event in events:
        life, some = step(life, event)
        effects += some
    return life, effects


def test_an_idle_container_sleeps_and_the_first_cause_wakes_it_once():
    """A second packet while the restore runs starts no second restore."""
    life, effects = run(
        Life(),
        lc.SleepAsked("idle"),
        lc.Slept(),
        lc.WakeAsked("tcp-connect"),
        lc.WakeAsked("exec"),
        lc.Woke(),
    )

    assert life.state is State.RUNNING
    assert life.cause == "tcp-connect"
    assert effects == [lc.Sleep(), lc.Wake("tcp-connect"), lc.Rest(0.0)]


def test_a_packet_in_the_middle_of_a_sleep_calls_it_off():
    """The application is wanted before its checkpoint is committed: it goes on, and that is no failure."""
    life, effects = run(
        Life(),
        lc.SleepAsked("idle"),
        lc.WakeAsked("tcp-connect"),
        lc.SleepCalledOff("tcp-connect"),
    )

    assert (life.state, life.failed_sleeps) == (State.RUNNING, 0)
    assert effects == [lc.Sleep(), lc.CallOff("tcp-connect"), lc.Rest(0.0)]


def test_failed_checkpoints_back_off_and_never_end_the_application():
    """Ten failures in a row: each time RUNNING, each time a longer pause up to an hour, the reason kept."""
    life, pauses = Life(), []
    for _ in range(10):
        life, effects = run(life, lc.SleepAsked("idle"), lc.SleepFailed("criu: broken"))
        pauses += [e.seconds for e in effects if isinstance(e, lc.Rest)]
        assert life.state is State.RUNNING
        assert not any(isinstance(e, lc.Fail | lc.CleanUp) for e in effects)

    assert pauses == sorted(pauses)
    assert (pauses[0], pauses[-1]) == (10.0, 3600.0)
    assert life.reason == "criu: broken"


def test_a_sleep_that_works_forgets_the_failures_before_it():
    """The back-off starts anew after a success."""
    life, _ = run(
        Life(), lc.SleepAsked("idle"), lc.SleepFailed("x"), lc.SleepAsked("idle"), lc.Slept()
    )

    assert (life.failed_sleeps, life.reason) == (0, "")


def test_a_failed_restore_is_tried_again_from_the_same_image_and_then_given_to_the_runtime():
    """Four retries with growing pauses, then the supervisor is told to fail."""
    life, _ = run(Life(), lc.SleepAsked("idle"), lc.Slept(), lc.WakeAsked("udp"))
    seen = []
    for _ in range(lc.MAX_WAKES):
        life, effects = step(life, lc.WakeFailed("pid taken"))
        seen += effects
        if life.state is State.WAKING:
            _, retry = step(life, lc.RetryWake())
            assert retry == [lc.Wake("udp")]

    assert [e.seconds for e in seen[:-1]] == [0.5, 1.0, 2.0, 4.0]
    assert seen[-1] == lc.Fail("pid taken")
    assert life.state is State.GONE


def test_no_room_is_waited_out_for_ever():
    """A full node is no failure of the image: nothing is counted."""
    life, _ = run(Life(), lc.SleepAsked("idle"), lc.Slept(), lc.WakeAsked("udp"))
    for _ in range(100):
        life, effects = step(life, lc.WakeHeld("512 MB missing"))
        assert effects == [lc.WakeLater(0.5)]

    assert (life.state, life.failed_wakes, life.reason) == (State.WAKING, 0, "512 MB missing")


def test_an_exit_cleans_up_exactly_once_in_every_state():
    """Also after the container was failed, whose real end comes later."""
    for before in (
        (),
        (lc.SleepAsked("idle"),),
        (lc.SleepAsked("idle"), lc.Slept()),
        (lc.Lost("x"),),
    ):
        life, _ = run(Life(), *before)
        life, effects = run(life, lc.Exited(), lc.Exited())
        assert life.state is State.GONE
        assert effects == [lc.CleanUp()]


@pytest.mark.parametrize("length", [1, 2, 3, 4])
def test_no_sequence_of_events_fails_a_container_without_a_failed_wake_or_a_loss(length):
    """All sequences up to four events: Fail comes only from Lost (restores need five failures)."""
    for events in itertools.product(EVENTS, repeat=length):
        _, effects = run(Life(), *events)
        if any(isinstance(e, lc.Fail) for e in effects):
            assert lc.Lost("gone") in events


def test_what_ended_stays_ended():
    """Late answers of workers change nothing."""
    life, _ = run(Life(), lc.Exited())
    for event in EVENTS:
        assert step(life, event) == (life, [])


def test_a_sleep_that_was_called_off_leaves_no_older_reason():
    """What the try before it failed of is not why it is awake now."""
    life = Life(State.SLEEPING, failed_sleeps=2, reason="criu failed")
    after, _ = step(life, lc.SleepCalledOff("exec"))

    assert (after.reason, after.failed_sleeps) == ("", 2)


def test_a_reason_has_its_kind_as_long_as_it_stands():
    """Whatever is in the way is told by a word that metrics can have as a label; it goes with its reason."""
    refused, _ = run(Life(), lc.SleepAsked("idle"), lc.SleepRefused("no port", Kind.NO_PORT))
    held, _ = run(
        refused,
        lc.SleepAsked("idle"),
        lc.Slept(),
        lc.WakeAsked("udp"),
        lc.WakeHeld("full", Kind.DISK_FULL),
    )
    woken, _ = run(held, lc.RetryWake(), lc.Woke())

    assert [(life.reason, life.kind) for life in (refused, held, woken)] == [
        ("no port", Kind.NO_PORT),
        ("full", Kind.DISK_FULL),
        ("", None),
    ]


def test_a_dry_run_sleeps_and_wakes_in_name_only():
    """It stays RUNNING, looks on for what would wake it, and says which cause it was."""
    life, effects = run(Life(), lc.WouldSleep("idle"))

    assert (life.state, life.would_sleep, life.cause) == (State.RUNNING, True, "idle")
    assert effects == [lc.Rest(0.0)]

    life, effects = run(life, lc.WakeAsked("exec"))

    assert (life.state, life.would_sleep, life.cause) == (State.RUNNING, False, "exec")
    assert effects == [lc.Stir(), lc.Rest(0.0)]


def test_awake_in_a_dry_run_nothing_is_a_wake():
    """Only what ends a would-be sleep counts."""
    assert step(Life(), lc.WakeAsked("exec")) == (Life(), [])


def test_what_a_dry_run_finds_in_the_way_is_looked_at_again_as_seldom_as_a_real_refusal():
    """With its reason, which is what a dry run is for."""
    life, effects = run(Life(), lc.SleepRefused("io_uring"), lc.SleepRefused("io_uring"))

    assert (life.state, life.failed_sleeps, life.reason) == (State.RUNNING, 2, "io_uring")
    assert effects == [lc.Rest(10.0), lc.Rest(20.0)]

    life, _ = run(life, lc.WouldSleep("idle"))

    assert (life.failed_sleeps, life.reason) == (0, "")


def test_only_running_would_sleep():
    """Whatever comes next, a state that was left is not carried along."""
    dozing, _ = run(Life(), lc.WouldSleep("idle"))
    for event in EVENTS:
        life, _ = step(dozing, event)
        assert life.state is State.RUNNING or not life.would_sleep


def test_what_is_frozen_is_woken_like_what_is_asleep():
    """With the reason for which it could not be checkpointed, until it is awake."""
    life, effects = run(Life(), lc.SleepAsked("idle"), lc.Froze("io_uring"))

    assert (life.state, life.cause, life.reason, life.failed_sleeps) == (
        State.FROZEN,
        "idle",
        "io_uring",
        1,
    )
    assert effects == [lc.Sleep()]

    life, effects = run(life, lc.WakeAsked("udp"), lc.WakeAsked("exec"), lc.Woke())

    assert (life.state, life.cause, life.reason, life.failed_sleeps) == (
        State.RUNNING,
        "udp",
        "",
        1,
    )
    assert effects == [lc.Wake("udp"), lc.Rest(0.0)]


def test_frozen_again_without_another_try_is_no_other_failure():
    """Else a busy pod would wait an hour for the next try to checkpoint it."""
    life = Life(State.SLEEPING, failed_sleeps=3)

    assert step(life, lc.Froze("x", tried=False))[0].failed_sleeps == 3


@pytest.mark.parametrize("length", [1, 2, 3])
def test_every_cause_is_one_of_a_list(length):
    """People, metrics and tests find the same word for the same thing."""
    for events in itertools.product(EVENTS, repeat=length):
        life, _ = run(Life(), *events)
        assert life.cause in CAUSES
