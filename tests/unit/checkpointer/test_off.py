"""How long a new application is waited for; processes and packets are stand-ins."""

import itertools
import threading
from types import SimpleNamespace
from unittest import mock

import pytest

from checkpointer import errors, off
from checkpointer.supervisor import State
from checkpointer.tally import Tally
from redirector.endpoints import Port

WEB, ADMIN = Port("tcp", 80), Port("tcp", 81)


class Start:
    """An application that is started afresh, on a clock that runs when somebody sleeps.

    `listening` says where it listens at each look, `awaited` on which ports somebody waits.
    """

    def __init__(self, listening, awaited=(), states=None):
        self.seconds = 100.0
        looks = itertools.chain(listening, itertools.repeat(listening[-1]))
        self._look = lambda _: set(next(looks))
        states = iter(states or ())
        control = mock.Mock()
        control.state.side_effect = lambda: next(states, State.RUN)
        self.container = SimpleNamespace(
            record=SimpleNamespace(id="id"),
            supervisor=control,
            ports=frozenset({WEB, ADMIN}),
            hold=mock.Mock(awaited=lambda: frozenset(awaited)),
            closing=threading.Event(),
            times=SimpleNamespace(wake={}),
            tally=Tally(),
        )
        self.engine = mock.Mock()

    def run(self):
        """Start it; return the seconds that it took, and the ports on which it was not heard."""

        def pause(seconds):
            self.seconds += seconds

        begun = self.seconds
        now = lambda: self.seconds  # noqa: E731
        off.start(self.container, self.engine, look=self._look, now=now, pause=pause)
        return self.seconds - begun, self.container.unheard

    @property
    def failures(self):
        return dict(self.container.tally.wake_failures)


def test_it_is_waited_for_until_it_listens_everywhere():
    """Then packets and execs go in, in this order."""
    start = Start([(), (), {WEB}, {WEB, ADMIN}], {WEB}, [State.OFF])
    calls = mock.Mock()
    calls.attach_mock(start.container.supervisor.sweep, "sweep")
    calls.attach_mock(start.container.supervisor.tell, "start")
    calls.attach_mock(start.container.hold.replay, "replay")
    calls.attach_mock(start.engine.execs.release, "release")
    took, unheard = start.run()

    assert [call[0] for call in calls.mock_calls] == ["sweep", "start", "replay", "release"]
    assert took < 1
    assert (unheard, start.failures) == (frozenset(), {})


def test_a_port_that_nobody_waits_for_is_waited_for_a_little():
    """The one before may have opened it for an occasion; nothing is said of it."""
    start = Start([(), {WEB}], {WEB})
    took, unheard = start.run()

    assert off.SIBLINGS <= took < off.SIBLINGS + 1
    assert (unheard, start.failures) == (frozenset(), {})


@pytest.mark.parametrize("awaited", [{ADMIN}, {WEB, ADMIN}])
def test_a_port_that_somebody_waits_for_is_waited_for_a_minute(awaited):
    """After that the kernel's answer is better than none; it is counted, and known where nobody listens."""
    start = Start([(), {WEB}], awaited)
    took, unheard = start.run()

    assert off.LISTENS <= took < off.LISTENS + 1
    start.container.hold.replay.assert_called_once()
    assert (unheard, start.failures) == ({ADMIN}, {"start-silent": 1})
    assert start.container.ports == {WEB}


def test_an_application_that_listens_nowhere_is_waited_for_although_nobody_waits():
    """Woken by an exec: the next packet would be refused."""
    start = Start([()])
    took, unheard = start.run()

    assert took >= off.LISTENS
    assert unheard == {WEB, ADMIN}


def test_who_is_heard_at_the_next_start_is_silent_no_more():
    """Each start is judged by itself."""
    start = Start([{WEB, ADMIN}])
    start.container.unheard = frozenset({WEB})

    assert start.run()[1] == frozenset()


def test_who_was_started_by_the_daemon_before_is_not_started_again():
    """Adopted in the middle of it."""
    start = Start([{WEB, ADMIN}])
    start.run()

    start.container.supervisor.tell.assert_not_called()
    start.container.supervisor.sweep.assert_not_called()


def test_a_daemon_that_goes_leaves_the_rest_to_its_successor():
    """The hold stays armed: what comes now is dropped and comes again."""
    start = Start([()])
    start.container.closing.set()
    with pytest.raises(off.Interrupted):
        start.run()

    start.container.hold.replay.assert_not_called()


def test_an_application_that_ends_while_it_starts_is_not_waited_for():
    """Its exit is on its way, and says more than we could."""
    start = Start([()], states=[State.RUN, State.RUN, State.NONE])
    start.container.supervisor.alive.return_value = False
    took, unheard = start.run()

    assert took < 1
    assert (unheard, start.failures) == (frozenset(), {})


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
