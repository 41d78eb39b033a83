"""kubectl exec into a container that sleeps, or is about to."""

from __future__ import annotations

import contextlib
import os
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from node import sleepers

from checkpointer import cgroups as groups
from checkpointer import waiters
from dev import cgroups, cri, patience
from ttrpc.errors import TtrpcError

Pods = Callable[..., cri.Pod]


@pytest.mark.both
def test_exec_wakes(pods: Pods) -> None:
    """An exec into a sleeping container runs once the application is back, which it finds with its memory."""
    one = sleepers.python(pods)
    pid = one.ask("memory.update(mark=12345) or os.getpid()")
    one.sleep()
    done = one.container.exec(["sh", "-c", f"kill -0 {pid} && echo there"])
    assert (done.code, done.out) == (0, "there\n")
    assert one.reach("RUNNING")["wake_cause"] == "exec"
    assert one.ask("memory['mark']") == 12345
    one.unharmed()


@pytest.mark.parametrize("code", [0, 1, 3, 42, 137])
def test_exit_code_passes(pods: Pods, code: int) -> None:
    """The exit code and both streams of an exec that woke the container are its own."""
    one = sleepers.python(pods)
    one.sleep()
    done = one.container.exec(["sh", "-c", f"echo out; echo err >&2; exit {code}"])
    assert done == (code, "out\n", "err\n")


def test_a_program_that_is_not_there(pods: Pods) -> None:
    """An exec of a missing program fails as it does in any container, and the application is well."""
    one = sleepers.python(pods)
    one.sleep()
    with pytest.raises(Exception, match=r"no such file|not found"):
        one.container.exec(["/no/such/program"])
    assert one.ask("1") == 1
    one.unharmed()


def test_an_exec_of_the_supervisor_is_a_way_to_wake(pods: Pods) -> None:
    """Every managed container has it; beside process 1 it says so and ends. `kubectl zeropod wake` relies on this."""
    one = sleepers.python(pods)
    one.ask("memory.update(mark=1)")
    one.sleep()
    done = one.container.exec(["/.zeropod/init"])
    assert done.code == 64
    assert "process 1" in done.err
    assert one.reach("RUNNING")["wake_cause"] == "exec"
    assert one.ask("memory['mark']") == 1
    one.unharmed()


def test_many_execs_at_once(pods: Pods) -> None:
    """Ten execs into a sleeping container all run, after one wake."""
    one = sleepers.python(pods)
    one.sleep()
    codes: list[int] = []

    def run() -> None:
        codes.append(one.container.exec(["true"]).code)

    threads = [threading.Thread(target=run) for _ in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert codes == [0] * 10
    assert one.reach("RUNNING")["wakes"] == 1


@pytest.mark.timeout(120)
def test_exec_during_dumps(pods: Pods) -> None:
    """Execs that start every few milliseconds while the container is put to sleep again and again never fail."""
    one = sleepers.python(pods)
    done: list[cri.Result | Exception] = []
    stop = threading.Event()

    def run() -> None:
        try:
            done.append(one.container.exec(["sh", "-c", "exit 7"]))
        except Exception as error:  # noqa: BLE001 - whatever it is, it is a failed exec
            done.append(error)

    def storm() -> None:
        running: list[threading.Thread] = []
        while not stop.is_set():
            if sum(thread.is_alive() for thread in running) < 20:
                running.append(threading.Thread(target=run))
                running[-1].start()
            stop.wait(0.005)
        for thread in running:
            thread.join(60)

    slept, off = 0, 0
    with one.talk() as talk:
        thread = threading.Thread(target=storm)
        thread.start()
        begun = time.monotonic()
        # Until execs have met dumps in both ways, however slow the machine is.
        while time.monotonic() - begun < (12 if slept and off else patience.seconds(60)):
            try:
                one.sleep()
                slept += 1
            except TtrpcError:  # called off, for an exec
                off += 1
        stop.set()
        thread.join(90)
        assert talk.ask("1") == 1
    assert slept
    assert off
    assert one.info()["failed_sleeps"] == 0
    wrong = [one for one in done if not isinstance(one, cri.Result) or one.code != 7]
    assert not wrong, wrong[:3]
    assert len(done) > 50
    one.unharmed()


@pytest.mark.timeout(180)
@pytest.mark.parametrize("round_", range(3))
def test_exec_at_any_moment_of_a_dump(pods: Pods, round_: int) -> None:
    """A single exec that meets a dump at any of its moments runs, and afterwards the container is awake."""
    one = sleepers.python(pods)
    for step in range(8):
        sleeping = threading.Thread(target=_try_to_sleep, args=(one,))
        sleeping.start()
        time.sleep((8 * round_ + step) * 0.004)
        assert one.container.exec(["sh", "-c", "exit 5"]).code == 5
        sleeping.join(60)
        one.wake()
    assert one.ask("1") == 1
    one.unharmed()


def test_a_session_keeps_it_awake(pods: Pods, tmp_path: Path) -> None:
    """While an exec session is open the container does not sleep, says so, and sleeps after its end."""
    end = tmp_path / "end"
    os.mkfifo(end)
    mount = {"container_path": "/data", "host_path": str(tmp_path)}
    one = sleepers.python(pods, scaledown="1s", mounts=[mount])
    session = threading.Thread(target=one.container.exec, args=(["cat", "/data/end"],))
    session.start()
    cri.until(lambda: "exec session" in one.why(), 30)
    sleeps = one.info()["sleeps"]  # it may have been asleep by the time that the session began
    time.sleep(3)
    assert one.info()["sleeps"] == sleeps
    end.write_text("")
    session.join(20)
    one.reach("ASLEEP")


def test_a_session_started_before_the_sleep_lives(pods: Pods) -> None:
    """A session that is open when somebody has the container put to sleep goes on and ends with its code."""
    one = sleepers.python(pods)
    found: list[cri.Result] = []
    words = ["sh", "-c", "sleep 3; echo done; exit 9"]
    session = threading.Thread(target=lambda: found.append(one.container.exec(words)))
    session.start()
    cri.until(lambda: any(sleepers.comm(pid) == "sleep" for pid in _inside(one)), 30)
    with contextlib.suppress(TtrpcError):
        one.sleep()
    session.join(30)
    assert found == [(9, "done\n", "")]
    assert one.ask("1") == 1
    one.unharmed()


def _try_to_sleep(one: sleepers.Sleeper) -> None:
    with contextlib.suppress(TtrpcError):
        one.sleep()


def _inside(one: sleepers.Sleeper) -> list[int]:
    root = cgroups.hierarchies()[0]
    for hierarchy in cgroups.hierarchies():
        if (hierarchy / one.container.pod.cgroup / one.container.id).exists():
            root = hierarchy
            break
    text = (root / one.container.pod.cgroup / one.container.id / "cgroup.procs").read_text()
    return [int(word) for word in text.split()]


def test_what_a_session_left_behind(pods: Pods) -> None:
    """A process that an exec left in the background is not the application: it lives on, asleep and awake."""
    one = sleepers.python(pods)
    assert one.container.exec(["sh", "-c", "sleep 1000 >/dev/null 2>&1 & exit 0"]).code == 0
    _try_to_sleep(one)
    assert any(sleepers.comm(pid) == "sleep" for pid in _inside(one))
    assert one.ask("1") == 1
    one.unharmed()


@pytest.mark.timeout(120)
def test_a_crowd_at_the_door(pods: Pods) -> None:
    """Execs that cannot be let in for want of memory are bounded: beyond 64 they fail, those that were killed make room."""
    one = sleepers.python(pods, "ballast = os.urandom(16 << 20)")
    group = groups.of(one.pid).controller("memory")
    assert group is not None
    names = ("memory.limit_in_bytes", "memory.max")
    limit = next(group / name for name in names if (group / name).exists())
    one.sleep()
    before = limit.read_text().strip()
    enter = ["nsenter", "-t", str(one.pid), "-m", "true"]
    crowd: list[subprocess.Popen[bytes]] = []

    def come(count: int) -> None:
        new = [subprocess.Popen(enter, stderr=subprocess.DEVNULL) for _ in range(count)]
        crowd.extend(new)

    def turned_away() -> int:
        return sum(visitor.poll() not in (None, 0, -9) for visitor in crowd)

    limit.write_text(str(12 << 20))
    try:
        come(waiters.MOST)
        cri.until(lambda: one.info()["kind"] == "no-room-container", 30)
        come(5)
        cri.until(lambda: turned_away() == 5, 30)
        assert one.state == "WAKING"
        for visitor in crowd[:3]:
            visitor.kill()
            visitor.wait()
        come(3)
        time.sleep(1)
        assert turned_away() == 5
    finally:
        # Version 1 does not take what it prints when there is none.
        limit.write_text("-1" if before.isdigit() and int(before) >= 1 << 60 else before)
    cri.until(lambda: all(visitor.poll() is not None for visitor in crowd), 30)
    assert sum(visitor.returncode == 0 for visitor in crowd) == waiters.MOST
    assert one.ask("1") == 1
    one.unharmed()
