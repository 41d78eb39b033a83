"""Who is looked at, and when."""

import threading

import pytest

from checkpointer.kubernetes import work


@pytest.fixture
def queue():
    found = work.Work()
    yield found
    found.close()


def test_a_key_is_given_to_one_at_a_time(queue):
    """And once more if something is new meanwhile."""
    queue.add("a")
    assert queue.take() == "a"
    queue.add("a")
    queue.add("b")
    assert queue.take() == "b"
    queue.done("a")
    assert queue.take() == "a"


def test_the_earliest_is_first(queue):
    """A later wish does not put it off."""
    queue.add("late", 1.0)
    queue.add("never", 1000)
    queue.add("early")
    queue.add("early", 1000)
    assert [queue.take(), queue.take()] == ["early", "late"]


def test_failures_come_later_and_later():
    """With jitter, and not beyond half a minute or so."""
    pauses = [[work.pause(n) for _ in range(20)] for n in (1, 5, 50)]
    assert max(pauses[0]) < min(pauses[1]) < max(pauses[1]) < min(pauses[2])
    assert max(pauses[2]) <= 31
    assert len(set(pauses[0])) > 1


def test_a_server_that_is_back_is_asked_at_once(queue):
    """What waits for it need not wait any longer."""
    queue.add("a")
    queue.take()
    for _ in range(8):
        queue.failed("a")
    queue.hold(1000)
    assert len(queue) == 1
    queue.release()
    assert queue.take() == "a"


def test_nothing_is_taken_while_the_server_is_to_be_left_alone(queue):
    """However urgent."""
    taken = threading.Event()
    queue.hold(1000)
    queue.add("a")

    def take():
        if queue.take() is not None:
            taken.set()

    thread = threading.Thread(target=take)
    thread.start()
    assert not taken.wait(0.2)
    queue.close()
    thread.join(10)
    assert not taken.is_set()


def test_what_is_only_planned_is_not_pending(queue):
    """A look in ten minutes is no debt."""
    queue.add("a", 600)
    assert len(queue) == 0
