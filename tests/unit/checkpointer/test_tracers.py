"""The processes beside criu: found by their names, waited for, never killed."""

import shutil
import signal
import subprocess

import pytest

from checkpointer import tracers
from checkpointer.errors import CriuError


class Zygotes:
    """Knows what is at work in a container: processes of the given names."""

    def __init__(self, folder, names):
        self.at_work = []
        for name in names:
            program = folder / name
            shutil.copy(shutil.which("sleep"), program)
            self.at_work.append(subprocess.Popen([program, "60"]))

    def running(self, _):
        return [one.pid for one in self.at_work if one.poll() is None]


class Worker:
    """A criu that goes on."""

    def wait(self, _):
        return False


@pytest.fixture
def zygotes(tmp_path):
    own = Zygotes(tmp_path, ["criu", *sorted(tracers.NAMES)])
    yield own
    for one in own.at_work:
        one.kill()
        one.wait()


def test_both_are_alive_until_one_has_ended(zygotes):
    """Without either of them the application may have gone on."""
    with tracers.Tracers.of(zygotes, Worker(), 1) as found:
        assert found.alive()
        zygotes.at_work[-1].kill()
        zygotes.at_work[-1].wait()
        assert not found.alive()


def test_none_found_is_none_alive(zygotes, monkeypatch):
    """Nobody vouches for a tree that nobody traces."""
    monkeypatch.setattr(tracers, "_FIND_SECONDS", 0.01)
    zygotes.at_work[1].kill()
    zygotes.at_work[1].wait()
    with tracers.Tracers.of(zygotes, Worker(), 1) as found:
        assert not found.alive()


def test_a_stopped_one_is_set_going(zygotes, monkeypatch):
    """Waiting for them ends, also when somebody has stopped one."""
    monkeypatch.setattr(tracers, "_NUDGE", 0.01)
    with tracers.Tracers.of(zygotes, Worker(), 1) as found:
        for one in zygotes.at_work[1:]:
            one.send_signal(signal.SIGSTOP)
            one.send_signal(signal.SIGTERM)  # comes with the next SIGCONT
        assert found.wait()


def test_waiting_for_them_has_an_end(zygotes, monkeypatch):
    """One that does not end is said to be there."""
    monkeypatch.setattr(tracers, "_NUDGE", 0.01)
    monkeypatch.setattr(tracers, "_PATIENCE", 0.05)
    with tracers.Tracers.of(zygotes, Worker(), 1) as found:
        assert not found.wait()


def test_only_criu_is_killed(zygotes, monkeypatch):
    """What is at work for a dead daemon is ended by ending criu: those beside it undo what it did."""
    monkeypatch.setattr(tracers, "_PATIENCE", 0.1)
    criu, *beside = zygotes.at_work
    with pytest.raises(CriuError, match=f"process {beside[0].pid}"):
        tracers.dismiss(zygotes, 1, 0.05)
    assert criu.wait() == -signal.SIGKILL
    assert [one.poll() for one in beside] == [None, None]
