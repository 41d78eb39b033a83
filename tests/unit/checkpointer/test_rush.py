"""Housekeeping gives way to wakes."""

import threading

from checkpointer.rush import Rush


def test_without_a_rush_nobody_waits():
    """The common case: one pod wakes alone."""
    assert Rush().give_way(0.0)


def test_housekeeping_waits_for_the_last_of_the_wakes():
    """Not for the first: each of them has a client."""
    rush, order = Rush(), []
    first, second = rush.__enter__(), rush.__enter__()
    assert first is second
    waiter = threading.Thread(target=lambda: order.append(("over", rush.give_way(10.0))))
    waiter.start()
    rush.__exit__(None, None, None)
    assert not rush.give_way(0.01)
    order.append("still one")
    rush.__exit__(None, None, None)
    waiter.join(10.0)

    assert order == ["still one", ("over", True)]


def test_patience_ends():
    """A restore that hangs does not keep the others' cgroups waiting."""
    with Rush() as rush:
        assert not rush.give_way(0.01)
