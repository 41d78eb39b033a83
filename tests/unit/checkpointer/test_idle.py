"""When a container may sleep."""

from checkpointer.idle import Busy, Idle, Seen, decide


def when(now, *seen, since=0.0, sessions=0, scaledown=60.0, unsent=0):
    return decide(
        now, scaledown=scaledown, since=since, seen=seen, sessions=sessions, unsent=unsent
    )


def test_it_is_idle_one_scaledown_duration_after_the_last_payload_in_any_direction():
    """An answer counts as much as a request."""
    assert when(159.0, Seen(90.0, 100.0)) == Busy(160.0, "last traffic 59 s ago")
    assert when(160.0, Seen(90.0, 100.0)) == Idle()


def test_the_busiest_port_decides():
    """One quiet port does not put the others to sleep."""
    assert isinstance(when(100.0, Seen(1.0, 2.0), Seen(70.0, 71.0)), Busy)


def test_starting_and_waking_count_as_activity():
    """A container without any traffic sleeps one duration after it started."""
    assert when(100.0, since=50.0) == Busy(110.0, "last traffic 50 s ago")
    assert when(110.0, since=50.0) == Idle()


def test_a_request_without_an_answer_keeps_it_awake_for_ten_minutes():
    """A 90 s request is not cut; a client that never gets an answer is not waited for for ever."""
    assert isinstance(when(190.0, Seen(100.0, 50.0)), Busy)
    assert when(701.0, Seen(100.0, 50.0)) == Idle()


def test_a_datagram_that_is_never_answered_is_no_open_request():
    """A statsd sink sleeps after its scaledown-duration."""
    assert when(161.0, Seen(100.0, 0.0, answers=False)) == Idle()


def test_an_exec_session_keeps_it_awake():
    """However long nothing was sent."""
    decision = when(1000.0, sessions=1)

    assert isinstance(decision, Busy)
    assert "exec" in decision.because


def test_an_answer_that_is_not_read_keeps_it_awake_for_ten_minutes():
    """Asleep it would not send the rest, and the reader's ACKs do not wake; a reader that is gone is given up."""
    assert when(300.0, Seen(90.0, 100.0), unsent=5) == Busy(
        360.0, "its peers have not acknowledged 5 bytes yet"
    )
    assert when(701.0, Seen(90.0, 100.0), unsent=5) == Idle()


def test_one_open_request_among_answered_ones_keeps_it_awake():
    """One client's answer is not the other's."""
    assert isinstance(when(200.0, Seen(120.0, 130.0), Seen(100.0, 0.0)), Busy)
