"""Who may wait at a container's door."""

from checkpointer.waiters import Waiters


def test_so_many_may_wait_and_no_more():
    """Each costs a descriptor, and nobody knows for how long."""
    waiters = Waiters(most=2)

    assert [waiters.add(fd, 100 + fd) for fd in (3, 4, 5)] == [True, True, False]
    assert waiters.take() == [3, 4]
    assert waiters.add(5, 105)


def test_those_who_were_killed_make_room():
    """An exec probe is killed at its time-out, and its descriptor stays."""
    ended = {103}
    waiters = Waiters(most=2, alive=lambda pid: pid not in ended)
    waiters.add(3, 103)
    waiters.add(4, 104)

    assert waiters.take_ended() == [3]
    assert waiters.add(5, 105)
    assert waiters.take() == [4, 5]


def test_some_are_turned_away_alone():
    """Those who have taken a pid of the application's."""
    waiters = Waiters()
    for fd in (3, 4, 5):
        waiters.add(fd, 100 + fd)
    waiters.drop(5)

    assert waiters.take({104, 105}) == [4]
    assert len(waiters) == 1
