"""The last look before an application rests, and doors that are opened again; hold, pod and exec watch are stand-ins."""

import threading
from types import SimpleNamespace
from unittest import mock

import pytest

from checkpointer import doors
from checkpointer.policy import Policy
from checkpointer.traffic import Traffic


def test_doors_are_opened_whatever_fails() -> None:
    """A replay that breaks off must not leave the maps holding, nor an exec waiting."""
    hold, engine = mock.Mock(), mock.Mock()
    hold.replay.side_effect = OSError("no map")
    container = SimpleNamespace(record=SimpleNamespace(id="id"), hold=hold)
    with pytest.raises(OSError, match="no map"):
        doors.opened(container, engine)

    hold.close.assert_called_once_with()
    engine.execs.release.assert_called_once_with("id")
    assert container.hold is None


@pytest.mark.parametrize(("pinged", "called_off"), [(0.0, False), (99.9, False), (100.1, True)])
def test_who_pings_while_the_doors_are_closed_is_answered(pinged: float, called_off: bool) -> None:
    """A ping is no activity, but the kernel has acknowledged it: nobody sends it again, and its client hangs up."""
    pod = mock.Mock()
    pod.activity.return_value = {}
    pod.pinged.return_value = int(pinged * 1e9)
    container = SimpleNamespace(
        record=SimpleNamespace(policy=Policy()),
        pod=pod,
        ports=frozenset(),
        heeded=frozenset(),
        quiet=100.0,
        called_off=threading.Event(),
        alone=lambda: True,
    )
    seen = Traffic(container, [], set())
    if called_off:
        with pytest.raises(doors.CalledOff, match="tcp-ping"):
            doors.last_look(container, seen)
    else:
        doors.last_look(container, seen)
