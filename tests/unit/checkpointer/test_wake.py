"""What a wake makes of a restore that fails; processes are stand-ins."""

import errno
import os
from collections import Counter
from types import SimpleNamespace
from unittest import mock

import pytest

from checkpointer import cgroups, errors, pids, restore, wake
from checkpointer.images import Fence
from checkpointer.kinds import Kind
from checkpointer.rush import Rush
from checkpointer.unthrottled import Unthrottled


@pytest.fixture
def container():
    """A container that sleeps."""
    image = mock.Mock(manifest=mock.Mock(tasks=1, pages_bytes=1, processes=1))
    image.fence_state.return_value = Fence.NONE
    return mock.Mock(image=image, hold=None, drain=None)


@pytest.fixture
def engine(monkeypatch, tmp_path):
    monkeypatch.setattr(cgroups, "of", lambda _: cgroups.Cgroups({}, None))
    return SimpleNamespace(
        rush=Rush(),
        zygotes=mock.Mock(),
        execs=mock.Mock(),
        room=mock.Mock(),
        unthrottled=Unthrottled(tmp_path / "journal"),
    )


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
        OSError(errno.EDQUOT, os.strerror(errno.EDQUOT)),
        errors.RestoreError("criu found the disk full", kind=Kind.DISK_FULL),
    ],
)
def test_a_full_disk_holds_a_wake(monkeypatch, container, engine, error):
    """Whoever noticed it: it is no failure of the image, and the reason says what to do."""
    monkeypatch.setattr(restore, "restore", mock.Mock(side_effect=error))

    with pytest.raises(errors.NoRoom, match="free space") as caught:
        wake.run(container, engine)

    assert caught.value.kind is Kind.DISK_FULL
    container.image.drop.assert_not_called()
    engine.room.give_back.assert_called_once()


def test_a_disk_that_cannot_be_written_holds_a_wake(monkeypatch, container, engine):
    """That the image is used cannot be noted: it could be restored twice."""
    error = errors.ImageError("Read-only file system", kind=Kind.IMAGE_UNWRITABLE)
    monkeypatch.setattr(restore, "restore", mock.Mock(side_effect=error))

    with pytest.raises(errors.NoRoom, match=r"Read-only .*; let the disk") as caught:
        wake.run(container, engine)

    assert caught.value.kind is Kind.IMAGE_UNWRITABLE


def test_a_limit_on_tasks_that_is_hit_in_the_middle_holds_a_wake(monkeypatch, container, engine):
    """There was room when it was looked at; that others came first is no failure of the image."""
    error = errors.RestoreError("EAGAIN", kind=Kind.NO_ROOM_TASKS)
    monkeypatch.setattr(restore, "restore", mock.Mock(side_effect=error))

    with pytest.raises(errors.NoRoom, match="podPidsLimit"):
        wake.run(container, engine)


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.EIO, os.strerror(errno.EIO)),
        errors.RestoreError("no", kind=Kind.CRIU_FAILED),
        errors.RestoreError("full, but it has run", kind=Kind.DISK_FULL, retry=False),
    ],
)
def test_another_failure_is_one(monkeypatch, container, engine, error):
    """What will not pass by itself counts as a failed try."""
    monkeypatch.setattr(restore, "restore", mock.Mock(side_effect=error))

    with pytest.raises(type(error)) as caught:
        wake.run(container, engine)

    assert caught.value is error


@pytest.mark.parametrize(
    ("takers", "waits", "reason"),
    [
        ([], False, "File exists"),
        ([pids.Taker(9, "sleep", 2)], False, "process 9 .* end it"),
        ([pids.Taker(9, "runc", 2)], True, "process 9 .* told to try again"),
    ],
)
def test_a_pid_that_is_taken_holds_a_wake(monkeypatch, container, engine, takers, waits, reason):
    """An exec that has it is turned away: it would wait for the wake, and the wake for it."""
    error = errors.RestoreError("Can't fork for 2: File exists", kind=Kind.PID_TAKEN)
    monkeypatch.setattr(restore, "restore", mock.Mock(side_effect=error))
    monkeypatch.setattr(pids, "takers", lambda *_: takers)
    engine.execs.turn_away.return_value = waits

    with pytest.raises(errors.NoRoom, match=reason) as caught:
        wake.run(container, engine)

    assert caught.value.kind is Kind.PID_TAKEN


def test_a_second_restore_that_is_held_keeps_clients_as_a_sleep_does(
    monkeypatch, container, engine
):
    """It may wait for room for long: keepalives are answered, and who is not heeded wakes nobody."""
    container.drain = mock.Mock()
    container.drain.wait.return_value = None  # the page daemon died
    container.tally.wake_failures = Counter()
    hold = container.pod.hold.return_value
    full = errors.RestoreError("criu found the disk full", kind=Kind.DISK_FULL)
    monkeypatch.setattr(restore, "again", mock.Mock(side_effect=full))

    with pytest.raises(errors.NoRoom):
        wake.drained(container, engine)

    held = container.image.manifest.held
    hold.only.assert_called_once_with(
        held.ports, held.connections, container.unheeded, held.streams
    )
    hold.close.assert_not_called()
