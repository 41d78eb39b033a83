"""Doors that were closed for a sleep that came to nothing; hold and exec watch are stand-ins."""

from types import SimpleNamespace
from unittest import mock

import pytest

from checkpointer import doors


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
