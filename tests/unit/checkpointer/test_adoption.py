"""Taking over a container whose image is not as it should be; processes are stand-ins."""

import dataclasses
from types import SimpleNamespace
from unittest import mock

import pytest

from checkpointer import adoption, containers, errors, lifecycle
from checkpointer.container import Container
from checkpointer.kinds import Kind
from checkpointer.supervisor import State
from redirector.endpoints import Port

RECORD = containers.Record("id", "pod", "p", "n", "u", "c", pid=1, start_time=1)


@pytest.fixture
def found(monkeypatch):
    """A container whose supervisor waits, without an application."""
    control = mock.Mock()
    control.application.return_value = None
    control.state.return_value = State.ASLEEP
    monkeypatch.setattr(Container, "supervisor", control)
    monkeypatch.setattr(Container, "cell", mock.Mock())
    return control


def engine(unusable):
    store = mock.Mock()
    store.load.side_effect = unusable
    zygotes = mock.Mock()
    zygotes.running.return_value = []
    return SimpleNamespace(
        datapath=mock.Mock(), store=store, zygotes=zygotes, execs=mock.Mock(), tally=mock.Mock()
    )


@pytest.mark.parametrize(
    ("unusable", "lost"),
    [
        (
            errors.ImageError("the image's manifest is damaged"),
            lifecycle.Lost("the image's manifest is damaged", Kind.IMAGE_CORRUPT),
        ),
        (
            lambda _: None,
            lifecycle.Lost(
                "the application is gone and there is no image of it", Kind.IMAGE_MISSING
            ),
        ),
    ],
)
def test_a_container_without_a_usable_image_is_lost_for_that_reason(found, unusable, lost):
    """What the image lacks is what people are told."""
    _, events = adoption.adopt(RECORD, engine(unusable))

    assert events == [lost]


def test_a_container_whose_image_is_of_a_later_version_sleeps_on(found):
    """A daemon that was rolled back must not end what its successor can wake."""
    later = errors.ImageError("format 9", kind=Kind.IMAGE_VERSION)

    with pytest.raises(errors.ImageError) as caught:
        adoption.adopt(RECORD, engine(later))

    assert caught.value is later
    found.tell.assert_not_called()


def test_an_image_that_nobody_needs_may_be_of_any_version(found):
    """The application runs: whatever its image is, it is stale."""
    found.application.return_value = 7
    found.state.return_value = State.RUN
    container, events = adoption.adopt(
        RECORD, engine(errors.ImageError("format 9", kind=Kind.IMAGE_VERSION))
    )

    assert events == []
    assert container.life.state is lifecycle.State.RUNNING


@pytest.mark.parametrize(
    ("ports", "events"),
    [({Port("tcp", 80)}, []), (set(), [lifecycle.WakeAsked("adopted")])],
)
def test_an_application_that_is_off_is_held_at_its_ports(found, ports, events):
    """The maps know them; if they were lost with an older layout nothing could wake it, so it is woken."""
    found.state.return_value = State.OFF
    node = engine(lambda _: None)
    held = SimpleNamespace(container_id="id", mode="set", ports=frozenset(ports))
    node.datapath.holds.return_value = [held]
    container, told = adoption.adopt(RECORD, node)

    assert (container.life.state, container.mode) == (lifecycle.State.ASLEEP, lifecycle.Mode.OFF)
    assert container.ports == ports
    assert told == events


def test_ports_that_no_map_knows_are_those_of_its_last_end(found):
    """After an upgrade to another layout of the maps; it sleeps on, and nobody starts it for that."""
    found.state.return_value = State.OFF
    node = engine(lambda _: None)
    node.datapath.holds.return_value = []
    record = dataclasses.replace(RECORD, ports=(Port("tcp", 80),))
    container, told = adoption.adopt(record, node)

    assert (container.ports, told) == ({Port("tcp", 80)}, [])


def test_an_application_that_was_being_ended_is(found, monkeypatch):
    """Half of an end cannot be undone."""
    finish = mock.Mock()
    monkeypatch.setattr(adoption.off, "finish", finish)
    found.state.return_value = State.ENDING
    found.application.return_value = 7
    node = engine(lambda _: None)
    node.datapath.holds.return_value = []
    container, _ = adoption.adopt(RECORD, node)

    finish.assert_called_once_with(container, 7)
    assert container.life.state is lifecycle.State.ASLEEP


def test_what_stands_still_goes_on(found, monkeypatch):
    """First it is thawed: if that fails it is not called awake, but tried again."""
    calls = mock.Mock()
    monkeypatch.setattr(Container, "cell", calls.cell)
    found.state.return_value = State.FROZEN
    found.application.return_value = 2
    calls.attach_mock(found.tell, "tell")
    container, events = adoption.adopt(RECORD, engine(lambda _: None))

    assert [call[0] for call in calls.mock_calls] == ["cell.thaw", "tell", "cell.dissolve"]
    assert (container.life.state, events) == (lifecycle.State.RUNNING, [])

    calls.cell.thaw.side_effect = errors.CellError("no")
    with pytest.raises(errors.CellError):
        adoption.adopt(RECORD, engine(lambda _: None))
