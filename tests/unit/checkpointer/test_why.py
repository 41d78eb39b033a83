"""What `zeropod why` says."""

import dataclasses
from collections import Counter

from checkpointer.doze import Doze, Dozes
from checkpointer.lifecycle import Life, Mode, State
from checkpointer.policy import Policy
from checkpointer.why import Facts, explain

FACTS = Facts(
    title="default/web/nginx",
    life=Life(),
    age=30.0,
    scaledown=60.0,
    busy="last traffic 12 s ago",
    look_in=48.0,
    ports=["tcp/80"],
    image_bytes=0,
)


def about(**changes):
    return explain(dataclasses.replace(FACTS, **changes))


def test_awake_it_names_what_keeps_it_awake_and_when_that_ends():
    """The paragraph answers: why is it not asleep, what would change that."""
    text = about()

    assert "default/web/nginx is awake" in text
    assert "last traffic 12 s ago" in text
    assert "60 s without traffic" in text
    assert "48 s" in text


def test_a_failed_sleep_is_named_with_its_reason_and_the_next_try():
    """And that the application was left alone."""
    text = about(life=Life(failed_sleeps=3, reason="it uses io_uring"), look_in=40.0)

    assert "it uses io_uring" in text
    assert "3 times in a row" in text
    assert "left as it was" in text
    assert "40 s" in text


def test_asleep_it_says_why_and_what_wakes_it():
    """Ports, size and all other doors."""
    text = about(life=Life(State.ASLEEP, cause="idle"), image_bytes=14_200_000)

    assert "14.2 MB" in text
    assert "tcp/80" in text
    assert "exec" in text


def test_a_wake_that_waits_for_room_says_so():
    """The image is kept meanwhile."""
    text = about(
        life=Life(
            State.WAKING, cause="tcp-connect", reason="80 MB missing in the pod's memory limit"
        )
    )

    assert "80 MB missing" in text
    assert "image is kept" in text


def test_a_duration_of_zero_is_named_with_its_annotation():
    """The remedy is in the sentence."""
    assert "zeropod.ctrox.dev/scaledown-duration is 0" in about(scaledown=0.0)


def test_asleep_it_says_what_a_stop_does():
    """Whoever has the pod end at once should know that the application does not shut down."""
    asleep = Life(state=State.ASLEEP)

    assert "exit code 0" not in about(life=asleep)
    assert "exit code 0" in about(life=asleep, policy=Policy(wake_on_stop=False))


DRY = Policy(dry_run=True)


def test_a_dry_run_says_what_it_would_do_and_has_done():
    """Nobody may take it for asleep, nor for awake without a reason."""
    dozes = Dozes(Doze(0.0, 43_000_000, frozenset()), sleeps=3, wakes=Counter({"exec": 2}))
    asleep = about(life=Life(cause="idle", would_sleep=True), policy=DRY, dozes=dozes)

    assert "dry-run is set, nothing sleeps" in asleep
    assert "would be asleep now" in asleep
    assert "43.0 MB less" in asleep
    assert "3 times" in asleep
    assert "exec 2" in asleep

    awake = about(policy=DRY)

    assert "last traffic 12 s ago" in awake
    assert "woken: never" in awake


def test_a_dry_run_says_what_it_found_in_the_way():
    """That is what it is for."""
    assert "it uses io_uring" in about(
        life=Life(failed_sleeps=1, reason="it uses io_uring"), policy=DRY
    )


def test_frozen_it_says_what_that_saves_and_what_not():
    """And why it is no sleep."""
    frozen = Life(state=State.FROZEN, cause="idle", reason="it uses io_uring")
    text = about(life=frozen, mode=Mode.FROZEN)

    assert "is frozen" in text
    assert "it uses io_uring" in text
    assert "no CPU, but keeps its memory" in text


def test_off_it_says_that_nothing_is_kept():
    """Nor is there a connection on which data could come."""
    text = about(life=Life(state=State.ASLEEP, cause="idle"), mode=Mode.OFF)

    assert "nothing of its memory is kept" in text
    assert "A packet to tcp/80, an exec" in text
    assert "exit code 0" in text
    assert "image" not in text


def test_starting_it_says_what_is_waited_for():
    """A client that waits for a minute asks."""
    text = about(life=Life(state=State.WAKING, cause="tcp-connect"), mode=Mode.OFF)

    assert "started afresh because a client opened a connection" in text
    assert "tcp/80" in text
