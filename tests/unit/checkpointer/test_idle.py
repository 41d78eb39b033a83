"""When a container may sleep."""

import pytest

from checkpointer.idle import Asks, Busy, Facts, Idle, Seen, decide, early
from checkpointer.policy import Policy


def when(now, *seen, since=0.0, scaledown=60.0, policy=None, **facts):
    policy = {"scaledown": scaledown, **(policy or {})}
    return decide(now, Facts(since=since, seen=seen, **facts), Policy(**policy))


def own(incoming, outgoing):
    """Of a connection that the application opened."""
    return Seen(incoming, outgoing, Asks.APPLICATION)


def test_it_is_idle_one_scaledown_duration_after_the_last_payload_in_any_direction():
    """An answer counts as much as a request."""
    assert when(159.0, Seen(90.0, 100.0)) == Busy(160.0, "last traffic 59 s ago")
    assert when(160.0, Seen(90.0, 100.0)) == Idle()


def test_traffic_while_it_is_looked_at_was_not_before_now():
    """The clock was read first, the packets' times after it."""
    assert when(100.0, Seen(90.0, 100.5)) == Busy(160.5, "last traffic 0 s ago")


def test_the_busiest_port_decides():
    """One quiet port does not put the others to sleep."""
    assert isinstance(when(100.0, Seen(1.0, 2.0), Seen(70.0, 71.0)), Busy)


def test_starting_and_waking_count_as_activity():
    """A container without any traffic sleeps one duration after it started."""
    assert when(100.0, since=50.0) == Busy(110.0, "last traffic 50 s ago")
    assert when(110.0, since=50.0) == Idle()


def test_a_ping_keeps_awake_for_seconds_only():
    """Who was woken by a ping and hears nothing else sleeps again soon; a shorter duration stays as it is."""
    ping = {"pinged": True, "slept": 60.0}
    assert isinstance(when(104.0, since=100.0, **ping), Busy)
    assert when(105.0, since=100.0, **ping) == Idle()
    assert isinstance(when(105.0, Seen(101.0, 102.0), since=100.0, **ping), Busy)
    assert when(102.0, since=100.0, scaledown=2.0, **ping) == Idle()


def test_a_client_that_pings_more_often_than_its_pod_would_sleep_does_not_wear_out_the_disk():
    """Woken before it has slept for its scaledown-duration, a container waits for that long again."""
    assert isinstance(when(105.0, since=100.0, scaledown=60.0, pinged=True, slept=59.0), Busy)
    assert when(160.0, since=100.0, scaledown=60.0, pinged=True, slept=59.0) == Idle()
    # Nothing was written for a sleep that was called off.
    assert when(105.0, since=100.0, scaledown=60.0, pinged=True, slept=-1.0) == Idle()


def test_a_request_without_an_answer_keeps_it_awake_for_ten_minutes():
    """A 90 s request is not cut; a client that never gets an answer is not waited for for ever."""
    assert isinstance(when(190.0, Seen(100.0, 50.0)), Busy)
    assert when(701.0, Seen(100.0, 50.0)) == Idle()


@pytest.mark.parametrize(("limit", "asleep"), [(0.0, 161.0), (120.0, 221.0), (3600.0, 3701.0)])
def test_max_request_says_how_long_an_answer_is_waited_for(limit, asleep):
    """Whichever is longer, it or the scaledown-duration; it is looked at when the request has had its time."""
    policy = {"max_request": limit}
    before = when(asleep - 2, Seen(100.0, 50.0), policy=policy)
    assert isinstance(before, Busy)
    assert before.until <= asleep
    assert when(asleep, Seen(100.0, 50.0), policy=policy) == Idle()


def test_a_request_of_its_own_keeps_it_awake():
    """The database's answer would come to nobody; once it has come it is traffic like any other."""
    decision = when(190.0, own(50.0, 100.0))

    assert isinstance(decision, Busy)
    assert "answer to a request of its own" in decision.because
    assert when(701.0, own(50.0, 100.0)) == Idle()
    assert when(190.0, own(100.0, 50.0)) == Idle()


def test_a_stream_from_the_server_is_activity_and_no_request():
    """Each piece counts for a scaledown-duration."""
    assert isinstance(when(150.0, Seen(10.0, 100.0)), Busy)
    assert when(160.0, Seen(10.0, 100.0)) == Idle()


def test_a_datagram_that_is_never_answered_is_no_open_request():
    """A statsd sink sleeps after its scaledown-duration."""
    assert when(161.0, Seen(100.0, 0.0, Asks.NOBODY)) == Idle()


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


def test_a_connection_that_it_opens_keeps_it_awake():
    """The answer to its SYN would not wake it; who never answers is given up."""
    assert isinstance(when(300.0, Seen(90.0, 100.0), opening=1), Busy)
    assert when(701.0, Seen(90.0, 100.0), opening=1) == Idle()


def test_one_open_request_among_answered_ones_keeps_it_awake():
    """One client's answer is not the other's."""
    assert isinstance(when(200.0, Seen(120.0, 130.0), Seen(100.0, 0.0)), Busy)


def test_work_counts_as_traffic():
    """It sleeps one duration after it was last seen to compute, and says what it used."""
    assert when(150.0, Seen(10.0, 20.0), worked=100.0, work="it used 1 core") == Busy(
        160.0, "it used 1 core"
    )
    assert when(160.0, Seen(10.0, 20.0), worked=100.0) == Idle()


def test_nothing_sleeps_unmeasured():
    """A server that took longer to start than its scaledown-duration may be computing still."""
    decision = when(160.0, Seen(10.0, 20.0), measured=False)
    assert isinstance(decision, Busy)
    assert decision.until < 161.0


def test_wait_waits_for_its_clients_to_hang_up():
    """Only where the policy says so; it is looked at again soon, since the end of a connection is no traffic."""
    assert when(160.0, Seen(90.0, 100.0), inbound=2) == Idle()
    decision = when(160.0, Seen(90.0, 100.0), inbound=2, policy={"connections": "wait"})
    assert isinstance(decision, Busy)
    assert decision.until <= 170.0
    assert "2 connection(s)" in decision.because


def test_what_is_ignored_is_no_traffic():
    """Neither an answer of a moment ago nor one that is due for long."""
    assert when(160.0, Seen(90.0, 100.0), ignored=(Seen(158.0, 159.0), Seen(100.0, 0.0))) == Idle()


def test_an_ignored_request_is_answered_first():
    """The sleep waits a moment for it, and not for ever: neither for one that hangs nor for one after the other."""
    decision = when(160.0, Seen(90.0, 100.0), ignored=(Seen(159.9, 145.0),))
    assert isinstance(decision, Busy)
    assert decision.until < 161.0
    assert isinstance(when(160.0, Seen(90.0, 100.0), unsent_ignored=5), Busy)
    assert decision.spares
    assert when(165.0, Seen(90.0, 100.0), ignored=(Seen(154.0, 145.0),)) == Idle()
    assert when(170.0, Seen(90.0, 100.0), ignored=(Seen(169.9, 169.0),), spared=160.0) == Idle()


def test_a_look_before_the_last_one_makes_the_cpu_time_recent():
    """Unless the period is short anyway, or nobody asks for it."""
    assert early(100.0, 160.0, Policy(cpu_threshold=0.1)) == 150.0
    assert early(150.0, 160.0, Policy(cpu_threshold=0.1)) == 160.0
    assert early(100.0, 160.0, Policy(cpu_threshold=0.0)) == 160.0


def test_min_awake_counts_from_the_wake_whatever_the_traffic():
    """A container that never woke is not held to it, and traffic does not prolong it."""
    policy = {"min_awake": 300.0}
    decision = when(200.0, Seen(90.0, 100.0), since=100.0, woke=100.0, policy=policy)

    assert isinstance(decision, Busy)
    assert decision.until == 400.0
    assert "it woke 100 s ago" in decision.because
    assert "min-awake is 300 s" in decision.because
    assert when(400.0, Seen(90.0, 100.0), since=100.0, woke=100.0, policy=policy) == Idle()
    assert when(200.0, Seen(90.0, 100.0), policy=policy) == Idle()
    # Later traffic has the last word, as ever.
    assert when(420.0, Seen(390.0, 395.0), woke=100.0, policy=policy) == Busy(
        455.0, "last traffic 25 s ago"
    )


def test_who_shuts_down_stays_awake():
    """However quietly: nobody would wake it to go on with that before its grace period is over."""
    decision = when(160.0, Seen(90.0, 100.0), leaving=True)
    assert isinstance(decision, Busy)
    assert "is being deleted" in decision.because


def test_who_is_not_ready_stays_awake():
    """Asleep it would be answered for, as if it were."""
    decision = when(160.0, Seen(90.0, 100.0), ready=False)
    assert isinstance(decision, Busy)
    assert "not Ready" in decision.because
    assert when(160.0, Seen(90.0, 100.0)) == Idle()
