"""Applications that are ended instead of checkpointed, and started afresh by the first packet."""

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

from dev import cri

Pods = Callable[..., cri.Pod]

ANNOTATIONS = {
    sleepers.SCALEDOWN: "1h",
    "zeropod.ctrox.dev/disable-checkpointing": "true",
}

pytestmark = pytest.mark.annotation("disable-checkpointing")


def start(
    pods: Pods, setup: str = "", scaledown: str = "1h", **described: object
) -> sleepers.Sleeper:
    pod = pods(annotations={**ANNOTATIONS, sleepers.SCALEDOWN: scaledown})
    return sleepers.python(pods, setup, pod=pod, **described)


def is_off(one: sleepers.Sleeper) -> None:
    assert one.supervisor() == "off"
    assert one.tree() == []
    assert not one.image().exists()
    found = one.info()
    assert (found["state"], found["mode"], found["image_bytes"]) == ("ASLEEP", "off", 0)


@pytest.mark.vm
def test_ended_and_started_afresh(pods: Pods) -> None:
    """Idle it is ended; the next client waits and is answered by a new application without memory, in the same container."""
    one = start(pods, scaledown="2s")
    assert one.ask("memory.update(a=1) or memory") == {"a": 1}
    first = one.tree()
    one.reach("ASLEEP")
    is_off(one)
    assert "nothing of its memory is kept" in one.why()
    assert one.ask("memory") == {}
    assert one.tree() != first
    found = one.reach("RUNNING")
    assert (found["wakes"], found["wake_cause"]) == (1, "tcp-connect")
    assert one.container.logs().count("up") == 2
    one.unharmed()


def test_it_may_shut_down_in_order(pods: Pods, tmp_path: Path) -> None:
    """Its SIGTERM handler runs to its end, its connections end as it ends them, and its exit code is nobody's."""
    setup = """
def ended(number, frame):
    time.sleep(1)
    open("/data/ended", "a").write("x")
    os._exit(3)
signal.signal(signal.SIGTERM, ended)
"""
    mount = {"container_path": "/data", "host_path": str(tmp_path)}
    one = start(pods, setup, mounts=[mount])
    with one.talk() as talk:
        talk.ask("1")
        one.sleep()
        with pytest.raises(ConnectionError):  # an end of file or a reset, within the time-out
            talk.ask("1")
    is_off(one)
    assert (tmp_path / "ended").read_text() == "x"
    assert one.ask("2") == 2
    one.unharmed()


@pytest.mark.timeout(120)
def test_what_does_not_end_is_killed(pods: Pods) -> None:
    """An application that ignores SIGTERM is killed after ten seconds, with all that it has forked."""
    setup = """
signal.signal(signal.SIGTERM, signal.SIG_IGN)
for _ in range(3):
    if os.fork() == 0:
        os.setsid()
        time.sleep(1000)
        os._exit(0)
"""
    one = start(pods, setup)
    assert len(one.tree()) == 4
    begun = time.monotonic()
    one.sleep()
    assert time.monotonic() - begun > 9
    is_off(one)
    assert one.ask("1") == 1
    assert len(one.tree()) == 4


def test_what_it_has_forked_ends_with_it(pods: Pods) -> None:
    """Daemonised children of an application that ends by itself are ended too, as in any container."""
    setup = """
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        time.sleep(1000)
    os._exit(0)
os.wait()
"""
    one = start(pods, setup)
    for _ in range(3):
        one.sleep()
        is_off(one)
        assert one.ask("1") == 1
        assert len(one.tree()) == 2


def test_started_as_at_first(pods: Pods) -> None:
    """Arguments, environment, directory, user, rights, limits and cgroups are the same, through many starts."""
    one = start(pods, env={"COLOUR": "a b"})
    facts = (
        "[sys.argv, sorted(os.environ.items()), os.getcwd(), os.getresuid(), os.getgroups(), os.getpid() == os.getsid(0), "
        "[resource.getrlimit(n) for n in range(16)], open('/proc/self/cgroup').read(), "
        "[line for line in open('/proc/self/status') if line.startswith(('Cap', 'NoNew', 'SigIgn', 'SigBlk', 'Seccomp'))]]"
    )
    first = one.ask(facts)
    for _ in range(3):
        one.sleep()
        assert one.ask(facts) == first
    one.unharmed()


def test_many_clients_wait_for_one_start(pods: Pods) -> None:
    """Twenty connections and a datagram that come while it starts slowly are all answered, by one start."""
    setup = (
        sleepers.DATAGRAMS
        + """
time.sleep(2)
"""
    )
    one = start(pods, setup)
    one.sleep()
    answers: list[object] = []
    threads = [
        threading.Thread(target=lambda: answers.append(one.ask("1 + 1"))) for _ in range(20)
    ]
    for thread in threads:
        thread.start()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as plain:
        plain.settimeout(20)
        plain.sendto(b"hello", (one.ip, 9))
        assert plain.recv(100) == b"hello"
    for thread in threads:
        thread.join(30)
    assert answers == [2] * 20
    assert one.reach("RUNNING")["wakes"] == 1
    one.unharmed()


def test_packets_while_it_ends(pods: Pods) -> None:
    """A client that comes between SIGTERM and the end waits, and is served by the next application."""
    setup = """
def ended(number, frame):
    time.sleep(2)
    os._exit(0)
signal.signal(signal.SIGTERM, ended)
"""
    one = start(pods, setup)
    sleeping = threading.Thread(target=_try, args=(one.sleep,))
    sleeping.start()
    cri.until(lambda: one.supervisor() == "ending", 30)
    assert one.ask("1") == 1
    sleeping.join(30)
    one.reach("RUNNING")
    one.unharmed()


def test_an_exec_starts_it(pods: Pods) -> None:
    """An exec into a container that is off waits until the application listens again."""
    one = start(pods)
    one.sleep()
    script = "import socket; socket.create_connection(('127.0.0.1', 7)); print('there')"
    assert one.container.exec(["python3", "-c", script]) == (0, "there\n", "")
    assert one.reach("RUNNING")["wake_cause"] == "exec"


def test_what_execs_left_is_not_taken_for_the_application(pods: Pods) -> None:
    """Neither what an exec left before the end, nor an open session's orphans after the next start."""
    one = start(pods)
    session = threading.Thread(
        target=one.container.exec,
        args=(["sh", "-c", "(sleep 4; sleep 1000) & sleep 3; exit 0"],),
    )
    session.start()
    cri.until(lambda: any(sleepers.comm(pid) == "sleep" for pid in sleepers.inside(one)), 30)
    assert one.container.exec(["sh", "-c", "sleep 1001 >/dev/null 2>&1 & exit 0"]).code == 0
    for _ in range(3):
        with contextlib.suppress(Exception):  # an exec may have called it off
            one.sleep()
        assert one.ask("1") == 1
    session.join(20)
    one.sleep()
    is_off(one)
    assert one.ask("1") == 1
    one.unharmed()


def test_a_stop_starts_nobody(pods: Pods) -> None:
    """A container that is off ends at once with 0 when it is stopped, daemon or not."""
    for daemon in (True, False):
        one = start(pods)
        one.sleep()
        with contextlib.nullcontext() if daemon else sleepers.without_daemon():
            assert one.container.stop(20).exit_code == 0, (
                "not 137, as at the end of its grace period"
            )


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_an_application_that_does_not_listen_any_more(pods: Pods, tmp_path: Path) -> None:
    """After a minute its clients are refused as by any such program, and it has a reason until it listens."""
    hangs = tmp_path / "hangs"
    program = (
        f"import os, time\nwhile os.path.exists('/data/hangs'): time.sleep(0.1)\n{sleepers.code()}"
    )
    mount = {"container_path": "/data", "host_path": str(tmp_path)}
    pod = pods(annotations=ANNOTATIONS)
    words = ["python3", "-c", program]
    one = sleepers.Sleeper(pod.run("localhost/python:1", words, mounts=[mount]))
    cri.until(lambda: "up" in one.container.logs(), 30)
    sleepers.known(one)
    one.sleep()
    hangs.touch()
    with pytest.raises(ConnectionRefusedError), one.talk(120) as talk:
        talk.ask("1")
    assert one.reach("RUNNING")["kind"] == "start-silent"
    assert "has not listened on tcp/7 within a minute" in one.why()
    hangs.unlink()
    cri.until(lambda: one.info()["kind"] == "", 30)
    assert one.ask("1") == 1
    assert one.sleep()["state"] == "ASLEEP"
    one.unharmed()


def test_its_own_exit_still_counts(pods: Pods) -> None:
    """After a fresh start an application that ends with 5 ends the container with 5."""
    one = start(pods)
    one.sleep()
    one.ask("threading.Timer(0.1, os._exit, [5]).start()")
    assert one.container.wait("exited", 10).exit_code == 5


def test_an_application_that_cannot_start_any_more(pods: Pods, tmp_path: Path) -> None:
    """One that ends while it starts ends the container with its code; the kubelet starts that again."""
    flag = tmp_path / "flag"
    mount = {"container_path": "/data", "host_path": str(tmp_path)}
    one = start(pods, "os.path.exists('/data/flag') and os._exit(9)", mounts=[mount])
    one.sleep()
    flag.touch()
    with contextlib.suppress(OSError), one.talk(3) as talk:
        talk.send("1")
    assert one.container.wait("exited", 15).exit_code == 9


@pytest.mark.timeout(120)
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM], ids=["killed", "stopped"])
def test_a_daemon_that_goes_at_any_moment(pods: Pods, how: signal.Signals) -> None:
    """Off it is held again; ending it is brought to its end; starting it is waited for."""

    def end_the_daemon() -> None:
        os.kill(sleepers.service_pid("daemon"), how)

    setup = """
def ended(number, frame):
    time.sleep(1.5)
    os._exit(0)
signal.signal(signal.SIGTERM, ended)
time.sleep(1.5)
"""
    one = start(pods, setup)
    one.sleep()
    end_the_daemon()
    sleepers.ready()
    one.reach("ASLEEP")
    is_off(one)
    assert one.ask("1") == 1

    with contextlib.suppress(Exception):
        sleeping = threading.Thread(target=_try, args=(one.sleep,))
        sleeping.start()
    cri.until(lambda: one.supervisor() == "ending", 30)
    end_the_daemon()
    sleeping.join(20)
    sleepers.ready()
    one.reach("ASLEEP")
    is_off(one)

    answers: list[object] = []
    client = threading.Thread(target=lambda: answers.append(one.ask("1")))
    client.start()
    cri.until(lambda: one.supervisor() == "run", 30)
    end_the_daemon()
    client.join(30)
    assert answers == [1]
    one.reach("RUNNING")
    one.unharmed()


def _try(function: Callable[[], object]) -> None:
    with contextlib.suppress(Exception):
        function()


def test_other_signals_are_nobodys(pods: Pods) -> None:
    """A SIGHUP to a container that is off neither starts it nor reaches the next application."""
    setup = "signal.signal(signal.SIGHUP, lambda *_: print('heard', flush=True))"
    one = start(pods, setup)
    one.sleep()
    os.kill(one.pid, signal.SIGHUP)
    time.sleep(1)
    is_off(one)
    assert one.ask("1") == 1
    assert "heard" not in one.container.logs()


def test_nothing_else_is_left(pods: Pods) -> None:
    """A pod that is removed while off leaves no cgroup of ours."""
    one = start(pods)
    one.sleep()
    one.container.pod.remove()
    cri.until(lambda: one.state == "none", 30)
    left = [
        path for root in ("/sys/fs/cgroup",) for path in Path(root).rglob(f"*{one.container.id}*")
    ]
    assert left == []
