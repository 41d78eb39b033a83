"""How long a new application is waited for; processes and packets are stand-ins."""

import itertools
import threading
from types import SimpleNamespace
from unittest import mock

import pytest

from checkpointer import errors, off
from checkpointer.supervisor import State
from redirector.endpoints import Port

WEB, ADMIN = Port("tcp", 80), Port("tcp", 81)


@pytest.fixture
def clock(monkeypatch):
    """A clock that runs when somebody sleeps."""
    now = SimpleNamespace(seconds=100.0)

    def sleep(seconds):
        now.seconds += seconds

    monkeypatch.setattr(off.time, "monotonic", lambda: now.seconds)
    monkeypatch.setattr(off.time, "sleep", sleep)
    return now


def starting(monkeypatch, listening, awaited=(), states=None):
    """A container that is off; `listening` says where its application listens at each look."""
    looks = itertools.chain(listening, itertools.repeat(listening[-1]))
    monkeypatch.setattr(off, "_listening", lambda _: set(next(looks)))
    control = mock.Mock()
    states = iter(states or ())
    control.state.side_effect = lambda: next(states, State.RUN)
    return SimpleNamespace(
        record=SimpleNamespace(id="id"),
        supervisor=control,
        ports=frozenset({WEB, ADMIN}),
        hold=mock.Mock(awaited=lambda: frozenset(awaited)),
        closing=threading.Event(),
        times=SimpleNamespace(wake={}),
    )


def test_it_is_waited_for_until_it_listens_everywhere(clock, monkeypatch):
    """Then packets and execs go in, in this order."""
    one = starting(monkeypatch, [(), (), {WEB}, {WEB, ADMIN}], {WEB}, [State.OFF])
    engine = mock.Mock()
    calls = mock.Mock()
    calls.attach_mock(one.supervisor.sweep, "sweep")
    calls.attach_mock(one.supervisor.tell, "start")
    calls.attach_mock(one.hold.replay, "replay")
    calls.attach_mock(engine.execs.release, "release")
    off.start(one, engine)

    assert [call[0] for call in calls.mock_calls] == ["sweep", "start", "replay", "release"]
    assert clock.seconds < 101


def test_a_port_that_nobody_waits_for_is_waited_for_a_little(clock, monkeypatch):
    """The one before may have opened it for an occasion."""
    off.start(starting(monkeypatch, [(), {WEB}], {WEB}), mock.Mock())

    assert off.SIBLINGS <= clock.seconds - 100 < off.SIBLINGS + 1


@pytest.mark.parametrize("awaited", [{ADMIN}, {WEB, ADMIN}])
def test_a_port_that_somebody_waits_for_is_waited_for_a_minute(clock, monkeypatch, awaited):
    """After that the kernel's answer is better than none."""
    one = starting(monkeypatch, [(), {WEB}], awaited)
    off.start(one, mock.Mock())

    assert off.LISTENS <= clock.seconds - 100 < off.LISTENS + 1
    one.hold.replay.assert_called_once()


def test_an_application_that_listens_nowhere_is_waited_for_although_nobody_waits(
    clock, monkeypatch
):
    """Woken by an exec: the next packet would be refused."""
    off.start(starting(monkeypatch, [()]), mock.Mock())

    assert clock.seconds - 100 >= off.LISTENS


def test_who_was_started_by_the_daemon_before_is_not_started_again(clock, monkeypatch):
    """Adopted in the middle of it."""
    one = starting(monkeypatch, [{WEB, ADMIN}])
    off.start(one, mock.Mock())

    one.supervisor.tell.assert_not_called()
    one.supervisor.sweep.assert_not_called()


def test_a_daemon_that_goes_leaves_the_rest_to_its_successor(clock, monkeypatch):
    """The hold stays armed: what comes now is dropped and comes again."""
    one = starting(monkeypatch, [()])
    one.closing.set()
    with pytest.raises(off.Interrupted):
        off.start(one, mock.Mock())

    one.hold.replay.assert_not_called()


def test_an_application_that_ends_while_it_starts_is_not_waited_for(clock, monkeypatch):
    """Its exit is on its way."""
    one = starting(monkeypatch, [()], states=[State.RUN, State.RUN, State.NONE])
    one.supervisor.alive.return_value = False
    off.start(one, mock.Mock())

    assert clock.seconds < 101


@pytest.mark.parametrize(
    ("state", "resumed"), [(State.OFF, False), (State.ENDING, True), (State.RUN, False)]
)
def test_an_application_that_has_ended_is_off_whatever_is_left_of_it(state, resumed):
    """A fork that waits for a dead disk cannot be killed; the container must not stay without an application for it."""
    control = mock.Mock()
    control.state.return_value = state
    cell = mock.Mock()
    cell.kill.side_effect = errors.CellError("a process cannot be killed")
    container = mock.Mock(supervisor=control, cell=cell)
    if state is State.OFF:
        off.finish(container, None)
    else:
        with pytest.raises(errors.CellError):
            off.finish(container, None)

    assert control.tell.called == resumed
