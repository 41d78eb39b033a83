"""A process that should be at work: set going when it was stopped, given up when it hangs."""

import os

from checkpointer.stall import PATIENCE, STOPPED, Advice, Stall


def test_one_that_computes_is_left_alone():
    """As long as it gets on, however slowly, nothing is done."""
    stall = Stall(0.0)
    seen = [stall.judge("S", ticks, ticks * PATIENCE) for ticks in range(5)]
    assert set(seen) == {Advice.NOTHING}


def test_one_that_does_nothing_is_given_up():
    """After its time, not before."""
    stall = Stall(0.0)
    stall.judge("S", 7, 1.0)
    assert stall.judge("S", 7, 1.0 + PATIENCE) is Advice.NOTHING
    assert stall.judge("S", 7, 1.1 + PATIENCE) is Advice.END


def test_a_slow_disk_is_waited_for():
    """What the kernel keeps waiting does not hang."""
    stall = Stall(0.0)
    assert stall.judge("D", 7, 10 * PATIENCE) is Advice.NOTHING
    assert stall.judge("S", 7, 10 * PATIENCE + 1) is Advice.NOTHING


def test_one_that_was_stopped_is_set_going():
    """After a while, and it is not given up as long as it stands."""
    stall = Stall(0.0)
    assert stall.judge("T", 7, 1.0) is Advice.NOTHING
    assert stall.judge("T", 7, 1.1 + STOPPED) is Advice.WAKE
    assert stall.judge("T", 7, 10 * PATIENCE) is Advice.WAKE


def test_a_living_process_is_looked_at():
    """The facts come from /proc."""
    assert Stall(0.0).look(os.getpid(), 0.0) is Advice.NOTHING
