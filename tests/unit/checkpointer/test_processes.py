"""Processes are read as they are, and one that has gone is always the same error."""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Iterator

import pytest

from checkpointer import errors, processes, restore, supervisor
from checkpointer.processes import Security

FACTS = Security(*("0\t0\t0\t0", "0\t0\t0\t0", "", "0", "0", "0", "0", "0", "0", "2", "1", ""))


@pytest.fixture
def shell() -> Iterator[subprocess.Popen[bytes]]:
    """A process with a child that says when it is there."""
    script = "sleep 1000 & echo; wait"
    pipe = subprocess.PIPE
    with subprocess.Popen(["sh", "-c", script], stdout=pipe, start_new_session=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process
        os.killpg(process.pid, 9)


@pytest.fixture
def gone() -> int:
    """A pid of the past."""
    with subprocess.Popen(["true"]) as process:
        pass
    return process.pid


def test_a_tree_is_the_process_and_its_descendants(shell: subprocess.Popen[bytes]) -> None:
    """Parents come before children."""
    tree = processes.tree(shell.pid)
    assert tree == [shell.pid, *processes.children(shell.pid)]
    assert len(tree) == 2
    assert processes.parent(tree[1]) == shell.pid


def test_children_of_threads_are_children() -> None:
    """A child made by another thread than the leader is found."""
    found: list[subprocess.Popen[bytes]] = []
    done = threading.Event()

    def work() -> None:
        found.append(subprocess.Popen(["sleep", "1000"]))
        done.wait()

    thread = threading.Thread(target=work)
    thread.start()
    try:
        while not found:
            pass
        assert found[0].pid in processes.children(os.getpid())
    finally:
        done.set()
        thread.join()
        found[0].kill()
        found[0].wait()


def test_what_has_gone_is_a_process_lookup_error(gone: int) -> None:
    """Every question about a process that has gone raises the same error."""
    for question in (
        processes.children,
        processes.comm,
        processes.exe,
        processes.start_time,
        processes.vpid,
        processes.security,
        processes.parent,
    ):
        with pytest.raises(ProcessLookupError):
            question(gone)
    assert processes.tree(gone) == []
    assert not processes.alive(gone)


def test_identity_is_pid_and_start_time() -> None:
    """A process with the same number that started at another time is another one."""
    me = os.getpid()
    started = processes.start_time(me)
    assert processes.alive(me, started)
    assert not processes.alive(me, started + 1)


def test_a_zombie_is_not_alive() -> None:
    """A process that only waits to be reaped has ended."""
    process = subprocess.Popen(["true"])
    try:
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert processes.zombie(process.pid)
        assert not processes.alive(process.pid)
        assert processes.security(process.pid) == {}
    finally:
        process.wait()


def test_rights_are_known_for_every_thread() -> None:
    """The thread ids of the view from inside are the keys; here they are the same."""
    assert set(processes.security(os.getpid())) == set(processes.tasks(os.getpid()))


def test_differences_name_thread_and_field() -> None:
    """A reason says which thread differs, in what, from what to what."""
    before = {2: FACTS, 3: FACTS, 4: FACTS}
    after = {2: FACTS, 3: FACTS._replace(seccomp="0"), 5: FACTS}
    assert restore.differences(before, after) == [
        "thread 3: seccomp was '2', is '0'",
        "thread 4 is missing",
        "thread 5 is new",
    ]
    assert restore.differences(before, before) == []


def test_an_orphan_is_not_the_application(shell: subprocess.Popen[bytes]) -> None:
    """Where the application is away, another child of the supervisor's is not it."""
    (child,) = processes.children(shell.pid)
    parent = supervisor.Supervisor(shell.pid)

    assert parent.application() == child
    assert parent.application(processes.vpid(child)) == child
    assert parent.application(processes.vpid(child) + 1) is None


def test_no_order_goes_to_who_has_the_pid_now() -> None:
    """A real-time signal would end it."""
    with subprocess.Popen(["sleep", "1000"]) as stranger:
        with pytest.raises(errors.SupervisorError, match="no supervisor any more"):
            supervisor.Supervisor(stranger.pid).tell(supervisor.Signal.FAIL, None)
        assert stranger.poll() is None
        stranger.kill()


def test_nothing_else_is_a_supervisor(gone: int) -> None:
    """A process that does not run our program is no supervisor and shows no state."""
    me = supervisor.Supervisor(os.getpid())
    assert not supervisor.is_supervisor(os.getpid())
    assert not supervisor.is_supervisor(gone)
    assert me.state() is supervisor.State.NONE
    assert supervisor.Supervisor(gone).application() is None
    assert not supervisor.Supervisor(gone).alive()
