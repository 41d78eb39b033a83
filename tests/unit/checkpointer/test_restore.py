"""What a restore decides before criu and after it; processes are stand-ins."""

import contextlib
import os
from types import SimpleNamespace
from unittest import mock

import pytest

from checkpointer import restore, restored
from checkpointer.errors import NoRoom, RestoreError
from checkpointer.images import Fence
from checkpointer.kinds import Kind
from checkpointer.processes import Tuning
from checkpointer.supervisor import State, Target

TARGET = Target("id", 100)
USUAL = Tuning((0,), 4, 50000)


@pytest.fixture
def image(tmp_path):
    """An image that was let go."""
    found = mock.Mock(path=tmp_path, manifest=mock.Mock(tuning={7: USUAL._replace(ioprio=9)}))
    found.fence_state.return_value = Fence.RELEASED
    return found


@pytest.fixture
def supervisor(monkeypatch):
    """A supervisor whose application runs although it does not know yet."""
    found = mock.Mock()
    found.state.return_value = State.ASLEEP
    found.application.return_value = 101
    monkeypatch.setattr(restore, "Supervisor", lambda _: found)
    return found


@pytest.mark.parametrize("state", [State.ASLEEP, State.RUN])
def test_an_application_that_was_let_go_is_not_restored_but_found(supervisor, image, state):
    """The supervisor was slow to obey RESUME; to call the wake lost would end a running application."""
    supervisor.state.return_value = state

    found = restore.restore(mock.Mock(), TARGET, image)

    assert found.pid == 101
    assert found.drain is None
    image.begin.assert_not_called()


def test_nothing_runs_twice_from_one_image(supervisor, image):
    """Without its application an image that was used is of no use."""
    supervisor.application.return_value = None

    with pytest.raises(RestoreError, match="was used") as caught:
        restore.restore(mock.Mock(), TARGET, image)

    assert not caught.value.retry


def test_tuning_goes_on_past_threads_that_refuse(monkeypatch, image):
    """A thread that has ended meanwhile, or a priority that takes a capability, is no failed wake."""
    tuned = {}

    def tune(tid, wanted):
        if tid == 11:
            raise FileNotFoundError
        if tid == 12:
            raise PermissionError
        tuned[tid] = wanted

    fakes = SimpleNamespace(
        tree=lambda pid: [pid, 20],
        tasks=mock.Mock(side_effect=[[10, 11, 12, 13], ProcessLookupError]),
        tuning=lambda _: USUAL,
        vpid=lambda tid: tid - 3,
        tune=tune,
    )
    monkeypatch.setattr(restored, "processes", fakes)
    restored.Restored(TARGET, image, 10, {}, None)._tune()

    assert tuned == {10: USUAL._replace(ioprio=9), 13: USUAL}


def test_an_image_is_free_again_before_its_blocked_application_is_killed(
    monkeypatch, supervisor, image
):
    """Killed in between, we would leave "it was used and has ended" to our successor, who would end the container."""
    order = mock.Mock()
    image.reopen = order.reopen
    monkeypatch.setattr(restore, "kill_tree", order.kill)
    monkeypatch.setattr(restore, "restore", order.restore)
    supervisor.state.return_value = State.RUN

    restore.again(mock.Mock(), TARGET, image, mock.Mock(abandon=order.abandon))

    assert [call[0] for call in order.mock_calls] == ["reopen", "kill", "abandon", "restore"]


def test_what_ends_by_itself_is_no_difference(image):
    """A restored zombie may be gone when its tree is compared; of it nothing was kept that could be missing."""
    image.manifest.security = {}
    operation = restore._Restore(mock.Mock(), Target("id", os.getpid()), image, 0.0)

    assert operation._differences([2**22 + 1]) == []


def test_who_is_not_admitted_has_done_nothing(image, monkeypatch):
    """Without room neither the image nor the container is touched, although a criu was being started."""
    image.path = os.getcwd()
    kill = mock.Mock()
    monkeypatch.setattr(restore, "kill_tree", kill)
    monkeypatch.setattr(restore.stdio, "handed_on", lambda _: contextlib.nullcontext(([], [])))
    zygotes = mock.Mock()
    zygotes.swrk.worker = lambda *_, meanwhile, **__: meanwhile()
    admit = mock.Mock(side_effect=NoRoom("no room"))
    operation = restore._Restore(zygotes, Target("id", os.getpid()), image, 0.0, admit=admit)

    with pytest.raises(NoRoom):
        operation.run(lazy=False)

    kill.assert_not_called()
    image.begin.assert_not_called()
    image.withdraw.assert_not_called()


def test_packets_are_let_in_once_as_soon_as_everything_runs(image):
    """Criu says when its tasks run; what it does afterwards nobody has to wait for."""
    running = mock.Mock()
    target = Target("id", os.getpid())
    operation = restore._Restore(mock.Mock(), target, image, 0.0, running=running)

    assert operation._asked("post-resume")
    running.assert_not_called()  # it was not let go
    operation._released = True
    assert operation._asked("post-resume")
    operation._let_in()

    running.assert_called_once_with()


@pytest.mark.parametrize(
    ("kind", "retry", "tries"),
    [
        (Kind.PAGE_DAEMON, True, [True, False]),
        (Kind.DISK_FULL, True, [True, False]),
        (Kind.PAGE_DAEMON, False, [True]),
        (Kind.CRIU_FAILED, True, [True]),
    ],
)
def test_what_a_page_daemon_cannot_do_is_done_without(
    monkeypatch, supervisor, image, kind, retry, tries
):
    """It needs files and memory of its own. Not again if the application may have run, or for any other reason."""
    tried = []

    class Operation:
        def __init__(self, *_):
            pass

        def run(self, *, lazy):
            tried.append(lazy)
            if lazy:
                raise RestoreError("no", kind=kind, retry=retry)
            return mock.sentinel.restored

    supervisor.application.return_value = None
    image.fence_state.return_value = Fence.NONE
    image.manifest.pages_bytes = 0
    monkeypatch.setattr(restore, "_Restore", Operation)

    if len(tries) == 2:
        assert restore.restore(mock.Mock(), TARGET, image, lazy=True) is mock.sentinel.restored
    else:
        with pytest.raises(RestoreError):
            restore.restore(mock.Mock(), TARGET, image, lazy=True)

    assert tried == tries
