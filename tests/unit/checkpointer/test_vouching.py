"""What is answered for a container that cannot be asked."""

from types import SimpleNamespace
from unittest import mock

import pytest

from checkpointer import vouching
from checkpointer.declared import Declared
from checkpointer.lifecycle import Life, State
from redirector.endpoints import Port
from redirector.probes import Fitness, Probe, Rules

PORTS = frozenset({Port("tcp", 80), Port("tcp", 81), Port("udp", 53)})
LIVE = Probe("liveness", "http", 80, "/", period=2.0, failures=2)


@pytest.mark.parametrize(
    ("life", "sound", "fit"),
    [
        (Life(State.SLEEPING), True, Fitness.READY),
        (Life(State.ASLEEP), True, Fitness.READY),
        (Life(State.FROZEN), True, Fitness.READY),
        (Life(State.FROZEN, reason="criu cannot dump it"), True, Fitness.READY),
        (Life(State.ASLEEP), False, Fitness.ALIVE),
        (Life(State.WAKING), True, Fitness.READY),
        (Life(State.WAKING, reason="no room"), True, Fitness.ALIVE),
        (Life(State.WAKING, failed_wakes=1), True, Fitness.ALIVE),
        (Life(State.GONE), True, Fitness.BROKEN),
    ],
)
def test_who_could_be_woken_is_ready_and_who_is_tried_again_lives(life, sound, fit):
    """Until the tries are over; then it is restarted anyway."""
    assert vouching.fitness(life, sound=sound) is fit


def test_an_image_that_is_gone_is_no_rest(tmp_path):
    """Asleep without an image, as `disable-checkpointing` has it, there is nothing to lose."""
    assert vouching.intact(None)
    assert vouching.intact(SimpleNamespace(path=tmp_path))
    assert not vouching.intact(SimpleNamespace(path=tmp_path / "gone"))


def test_rules_are_of_its_tcp_ports():
    """What is not known is not known there either."""
    assert vouching.rules(PORTS, None) == {80: Rules(), 81: Rules()}
    assert vouching.rules(PORTS, Declared((LIVE,)), Fitness.ALIVE) == {
        port: Rules((LIVE,), Fitness.ALIVE) for port in (80, 81)
    }


def container(**changes):
    values = {"ports": PORTS, "declares": lambda: None, "vouched": {}, "pod": mock.Mock()}
    values |= {"hold": mock.Mock(), "life": Life(State.ASLEEP), "image": None}
    return SimpleNamespace(**(values | changes))


def test_the_responder_is_told_news_only():
    """And everything anew if it is another one."""
    one = container()
    vouching.look([one, container(hold=None)], able=True, anew=False)
    vouching.look([one], able=True, anew=False)
    assert one.pod.answer.call_count == 1
    vouching.look([one], able=False, anew=False)
    assert one.pod.answer.call_args[0][0][80].fitness is Fitness.ALIVE
    vouching.look([one], able=False, anew=True)
    assert one.pod.answer.call_count == 3


def test_who_is_awake_is_told_of_by_nobody():
    """Its packets are not held."""
    one = container(hold=None)
    vouching.look([one], able=True, anew=True)
    assert not one.pod.answer.called


EXEC = LIVE._replace(kind="exec")


@pytest.mark.parametrize(
    ("probes", "answered", "wakes"),
    [
        ((LIVE,), True, False),
        ((LIVE,), False, True),
        ((LIVE._replace(role="readiness"),), False, False),
        ((LIVE._replace(failures=15),), False, False),
        ((EXEC,), True, True),
        ((EXEC._replace(role="startup"),), True, False),
    ],
)
def test_before_a_planned_stop_those_are_woken_that_would_be_restarted(probes, answered, wakes):
    """A liveness probe that nobody answers, and that fails before the next daemon is there."""
    assert vouching.cannot_wait(Declared(probes), answered=answered) is wakes


def test_what_is_not_known_wakes_nobody():
    """Without the API."""
    assert not vouching.cannot_wait(None, answered=False)


def test_exec_probes_are_told_of():
    """They are the ones that wake."""
    [said] = vouching.remarks(Declared((LIVE, EXEC._replace(period=10.0))))
    assert said.startswith("its liveness probe starts a program in it every 10 s, which wakes it")
    assert not list(vouching.remarks(None))
