"""Memory before the freeze: how it is asked for, and what is kept of it."""

from unittest import mock

import pytest

from checkpointer import criu, errors, sleep


def test_a_dump_leaves_to_the_pre_dump_what_has_not_changed():
    """Both ask the kernel to note changes; the dump knows where the rest is, relative to its own directory."""
    first, second = criu.pre_dump_request(2), criu.dump_request(2, parent=True)
    assert first.type == criu.rpc().SINGLE_PRE_DUMP
    assert first.opts.track_mem
    assert second.opts.track_mem
    assert second.opts.parent_img == criu.PARENT
    assert not criu.dump_request(2).opts.track_mem


@pytest.fixture
def container():
    """One whose owner wants it."""
    found = mock.Mock()
    found.record.policy.pre_dump = True
    return found


def pre_dumped(container, engine, monkeypatch, write=None):
    """Whether a sleep would use a pre-dump; its hitch is the container's."""
    monkeypatch.setattr(sleep.predump, "write", write or mock.Mock())
    engine.store.stage = mock.MagicMock()
    with sleep._pre_dumped(container, engine) as parent:
        return parent is not None


def test_nobody_asks_the_kernel_unless_it_is_wanted(container, monkeypatch):
    """By default nothing is different."""
    container.record.policy.pre_dump = False
    engine = mock.Mock()
    assert not pre_dumped(container, engine, monkeypatch)
    engine.zygotes.tracks_memory.assert_not_called()
    assert container.hitch == ""


def test_a_kernel_that_cannot_is_told_of(container, monkeypatch):
    """The sleep goes on without."""
    engine = mock.Mock()
    engine.zygotes.tracks_memory.return_value = False
    assert not pre_dumped(container, engine, monkeypatch)
    assert "CONFIG_MEM_SOFT_DIRTY" in container.hitch


def test_one_that_fails_costs_nothing_but_time(container, monkeypatch):
    """The sleep goes on without, and says why; the next one tries again."""
    failing = mock.Mock(side_effect=errors.DumpError("criu did not answer in time"))
    assert not pre_dumped(container, mock.Mock(), monkeypatch, failing)
    assert "criu did not answer in time" in container.hitch
    assert pre_dumped(container, mock.Mock(), monkeypatch)
    assert container.hitch == ""


def test_a_lost_application_is_no_hitch(container, monkeypatch):
    """What it has done to the application counts as in a dump."""
    failing = mock.Mock(side_effect=errors.DumpError("lost", outcome=errors.Outcome.LOST))
    with pytest.raises(errors.DumpError):
        pre_dumped(container, mock.Mock(), monkeypatch, failing)
