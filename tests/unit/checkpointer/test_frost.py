"""A freeze that comes to nothing; doors, cell and supervisor are stand-ins."""

import contextlib
import os
from types import SimpleNamespace
from unittest import mock

import pytest

from checkpointer import doors, errors, frost
from checkpointer.supervisor import Signal, State
from redirector import sockets


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> mock.Mock:
    """What is done, in order; of an application that is this process."""
    found = mock.Mock()
    found.hold.receive.return_value = None

    @contextlib.contextmanager
    def closed(*_):
        try:
            yield found.hold
        except BaseException:
            found.opened()
            raise

    monkeypatch.setattr(doors, "closed", closed)
    for name in ("check", "survey", "drain", "last_look"):
        monkeypatch.setattr(doors, name, getattr(found, name))
    monkeypatch.setattr(doors, "application", lambda _: os.getpid())
    monkeypatch.setattr(sockets, "table", lambda *_, **__: [])
    return found


def frozen(calls: mock.Mock) -> None:
    """Try it."""
    container = SimpleNamespace(
        supervisor=calls.supervisor,
        cell=calls.cell,
        ports=frozenset(),
        heeded=frozenset(),
        unheeded=frozenset(),
        times=SimpleNamespace(),
    )
    frost.freeze(container, mock.Mock())


def orders(calls: mock.Mock) -> list[str]:
    """Those that undo it."""
    wanted = {"cell.thaw", "supervisor.tell", "opened", "cell.dissolve"}
    return [call[0] for call in calls.mock_calls if call[0] in wanted][1:]


def test_who_is_wanted_after_all_goes_on_before_the_doors_open(calls: mock.Mock) -> None:
    """The last look finds somebody: thawed, told, then the packets."""
    calls.last_look.side_effect = doors.CalledOff("tcp-data")
    with pytest.raises(doors.CalledOff):
        frozen(calls)

    assert orders(calls) == ["cell.thaw", "supervisor.tell", "opened", "cell.dissolve"]


def test_a_thaw_that_fails_is_tried_again_and_the_supervisor_told(calls: mock.Mock) -> None:
    """Else the supervisor would keep every signal of an application that runs."""
    calls.cell.freeze.side_effect = errors.CellError("it waits for a disk")
    calls.cell.thaw.side_effect = errors.CellError("the kernel refuses")
    with pytest.raises(errors.CellError):
        frozen(calls)

    assert calls.supervisor.tell.mock_calls[-1] == mock.call(Signal.RESUME, State.RUN)
    assert orders(calls)[-1] == "cell.dissolve"
