"""How an application ends, awake, asleep and just woken, and what the runtime hears of it."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from node import sleepers
from node.faults import held, memory_limit

from dev import cri, patience
from ttrpc.errors import TtrpcError

Pods = Callable[..., cri.Pod]

WAKE_ON_STOP = "zeropod.ctrox.dev/wake-on-stop"

#: Writes a file on SIGTERM and ends with 4.
HANDLER = """
def ended(number, frame):
    with open("/data/ended", "w") as file:
        file.write(f"{memory} {os.getpid()}")
    os._exit(4)
signal.signal(signal.SIGTERM, ended)
"""


def test_own_exit_code(pods: Pods) -> None:
    """An application that ends with 3 makes the container exit with 3, after sleeps as without."""
    for sleeps in range(3):
        one = sleepers.python(pods)
        for _ in range(sleeps):
            one.sleep()
            one.ask("1")
        one.ask("threading.Timer(0.1, os._exit, [3]).start()")
        assert one.container.wait("exited", 30).exit_code == 3


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGSEGV, 139), (signal.SIGABRT, 134), (signal.SIGKILL, 137)]
)
def test_death_by_signal(pods: Pods, number: signal.Signals, code: int) -> None:
    """An application that a signal kills makes the container exit with 128 and the signal's number."""
    one = sleepers.python(pods)
    one.sleep()
    one.ask(f"threading.Timer(0.1, os.kill, [os.getpid(), {int(number)}]).start()")
    assert one.container.wait("exited", 30).exit_code == code


@pytest.mark.parametrize("state", ["awake", "woken", "asleep"])
@pytest.mark.both
def test_stop_runs_the_handler(pods: Pods, tmp_path: Path, state: str) -> None:
    """A stop in any state runs the application's SIGTERM handler, with its memory, and takes its exit code."""
    mount = {"container_path": "/data", "host_path": str(tmp_path)}
    one = sleepers.python(pods, HANDLER, mounts=[mount])
    pid = one.ask("memory.update(a=1) or os.getpid()")
    if state != "awake":
        one.sleep()
    if state == "woken":
        one.ask("1")
        one.reach("RUNNING")
    assert one.container.stop(20).exit_code == 4
    assert (tmp_path / "ended").read_text() == f"{{'a': 1}} {pid}"


def test_pod_stop_runs_the_handler(pods: Pods, tmp_path: Path) -> None:
    """A pod that is stopped while two of its containers sleep ends both through their handlers."""
    pod = pods(annotations={sleepers.SCALEDOWN: "1h"})
    both = []
    for number, name in enumerate(("first", "second")):
        folder = tmp_path / name
        folder.mkdir()
        mount = {"container_path": "/data", "host_path": str(folder)}
        both.append(
            sleepers.python(pods, HANDLER, pod=pod, port=8000 + number, mounts=[mount], name=name)
        )
    for one in both:
        one.sleep()
    for one in both:
        assert one.state == "ASLEEP"
    threads = [threading.Thread(target=one.container.stop, args=(20,)) for one in both]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(40)
    assert [one.container.status().exit_code for one in both] == [4, 4]
    assert (tmp_path / "first/ended").exists()
    assert (tmp_path / "second/ended").exists()


def test_a_signal_that_is_handled_wakes(pods: Pods) -> None:
    """A signal other than SIGTERM that reaches a sleeping container wakes it and arrives."""
    setup = "signal.signal(signal.SIGHUP, lambda *_: print('heard', flush=True))"
    one = sleepers.python(pods, setup)
    one.sleep()
    os.kill(one.pid, signal.SIGHUP)
    cri.until(lambda: "heard" in one.container.logs(), 30)
    found = one.reach("RUNNING")
    assert (found["wakes"], found["wake_cause"]) == (1, "signal")
    one.unharmed()


def test_an_application_without_a_handler(pods: Pods) -> None:
    """An application without a SIGTERM handler that is stopped asleep ends with 143 at once."""
    one = sleepers.python(pods)
    one.sleep()
    assert one.container.stop(20).exit_code == 143, "not 137, as at the end of its grace period"


def test_stop_by_force_asleep(pods: Pods) -> None:
    """SIGKILL to a sleeping container ends it with 137, without a wake."""
    one = sleepers.python(pods)
    one.sleep()
    assert one.container.stop(0).exit_code == 137
    cri.until(lambda: one.state == "none", 30)
    assert not one.image().exists()


def test_grace_period_asleep(pods: Pods) -> None:
    """A sleeping application that ignores SIGTERM is woken, and killed after the grace period."""
    one = sleepers.python(pods, "signal.signal(signal.SIGTERM, signal.SIG_IGN)")
    one.sleep()
    assert one.container.stop(2).exit_code == 137


def test_who_waits_for_one_that_ends_is_refused(pods: Pods) -> None:
    """A datagram that is held when its container is killed is answered by the kernel: nobody has that port any more."""
    udp = "udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); udp.bind(('', 9000))"
    one = sleepers.python(pods, f"ballast = os.urandom(16 << 20); {udp}")
    one.sleep()
    memory_limit(one).write_text(str(12 << 20))  # it cannot be woken for it
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(patience.seconds(20))
        client.connect((one.ip, 9000))
        client.send(b"?")
        held(one, "no-room-container")
        assert one.container.stop(0).exit_code == 137
        with pytest.raises(ConnectionRefusedError):
            client.recv(1)


@pytest.mark.parametrize("stop", ["by force", "without a wake"])
def test_who_is_connected_to_one_that_ends_asleep_is_told(pods: Pods, stop: str) -> None:
    """The kernel has no socket that would tell: clients, and whoever the application called, see a reset."""
    forced = stop == "by force"
    wake = {} if forced else {WAKE_ON_STOP: "false"}
    pod = pods(annotations={sleepers.SCALEDOWN: "1h", **wake})
    with socket.create_server(("10.88.0.1", 0)) as called:
        called.settimeout(patience.seconds(20))
        call = f"called = socket.create_connection({called.getsockname()})"
        one = sleepers.python(pods, call, pod=pod)
        server, _ = called.accept()
        with server, one.talk() as talk:
            talk.ask("1")
            one.sleep()
            assert one.container.stop(0 if forced else 20).exit_code == (137 if forced else 0)
            for peer in (talk.sock, server):
                peer.settimeout(patience.seconds(20))
                with pytest.raises(ConnectionResetError):
                    peer.recv(1)


@pytest.mark.timeout(120)
def test_exit_right_after_a_wake(pods: Pods) -> None:
    """An application that ends within milliseconds of a wake ends the container with its code, not with an error."""
    for delay in (0.0, 0.0005, 0.001, 0.002, 0.005, 0.02):
        one = sleepers.python(pods)
        with one.talk() as talk:
            talk.ask("1")
            one.sleep()
            talk.send(f"time.sleep({delay}) or os._exit(3)")
            assert one.container.wait("exited", 30).exit_code == 3, delay


@pytest.mark.timeout(120)
def test_exit_during_a_dump(pods: Pods) -> None:
    """An application that ends while it is being put to sleep ends the container with its code."""
    for delay in (0.01, 0.03, 0.05, 0.07, 0.1):
        one = sleepers.python(pods)
        one.ask(f"threading.Timer({delay}, os._exit, [3]).start()")
        with contextlib.suppress(TtrpcError):
            one.sleep()  # it may end before
            one.wake()  # and if it was frozen before its time was up, it ends now
        assert one.container.wait("exited", 30).exit_code == 3, delay


def test_stop_during_a_dump(pods: Pods, tmp_path: Path) -> None:
    """SIGTERM at any moment of a sleep reaches the handler."""
    mount = {"container_path": "/data", "host_path": str(tmp_path)}
    for step in range(6):
        one = sleepers.python(pods, HANDLER, mounts=[mount])
        sleeping = threading.Thread(target=_try_to_sleep, args=(one,))
        sleeping.start()
        time.sleep(step * 0.02)
        os.kill(one.pid, signal.SIGTERM)
        assert one.container.wait("exited", 30).exit_code == 4, step
        sleeping.join(60)
        (tmp_path / "ended").unlink()


def _try_to_sleep(one: sleepers.Sleeper) -> None:
    with contextlib.suppress(TtrpcError):
        one.sleep()


@pytest.mark.annotation("wake-on-stop")
def test_a_stop_that_wakes_nobody(pods: Pods, tmp_path: Path) -> None:
    """With wake-on-stop "false" a sleeping container that is stopped ends with 0 at once, handler or not."""
    mount = {"container_path": "/data", "host_path": str(tmp_path)}
    pod = pods(annotations={sleepers.SCALEDOWN: "1h", WAKE_ON_STOP: "false"})
    one = sleepers.python(pods, HANDLER, pod=pod, mounts=[mount])
    one.sleep()
    assert "exit code 0" in one.why()
    assert one.container.stop(20).exit_code == 0, "not 137, as at the end of its grace period"
    assert not (tmp_path / "ended").exists()
    cri.until(lambda: one.state == "none", 30)
    assert not one.image().exists()


@pytest.mark.annotation("wake-on-stop")
@pytest.mark.parametrize("daemon", ["there", "away"])
def test_a_pod_that_sleeps_is_removed_at_once(pods: Pods, daemon: str) -> None:
    """Without its grace period, with and without anybody who could have woken it."""
    pod = pods(annotations={sleepers.SCALEDOWN: "1h", WAKE_ON_STOP: "false"})
    one = sleepers.python(pods, "signal.signal(signal.SIGTERM, signal.SIG_IGN)", pod=pod)
    one.sleep()
    with sleepers.without_daemon() if daemon == "away" else contextlib.nullcontext():
        assert one.container.stop(20).exit_code == 0, "not 137, as at the end of its grace period"
        pod.remove()
    cri.until(lambda: one.state == "none" and not one.image().exists(), 30)


@pytest.mark.annotation("wake-on-stop")
def test_awake_a_stop_is_the_applications(pods: Pods, tmp_path: Path) -> None:
    """With wake-on-stop "false" an application that is awake, or was woken, shuts down by its handler all the same."""
    mount = {"container_path": "/data", "host_path": str(tmp_path)}
    pod = pods(annotations={sleepers.SCALEDOWN: "1h", WAKE_ON_STOP: "false"})
    one = sleepers.python(pods, HANDLER, pod=pod, mounts=[mount])
    for _ in range(2):
        one.sleep()
        one.ask("1")
        one.reach("RUNNING")
    assert one.container.stop(20).exit_code == 4
    assert (tmp_path / "ended").exists()


def test_a_stop_while_nobody_is_there_to_wake(pods: Pods) -> None:
    """With the daemon away a sleeping container that is stopped ends with 0 at once, whatever signal its image names."""
    for number in (signal.SIGTERM, signal.SIGQUIT):
        one = sleepers.python(pods)
        one.sleep()
        with sleepers.without_daemon():
            os.kill(one.pid, number)
            assert one.container.wait("exited", 30).exit_code == 0
