"""Applications that cannot be checkpointed and are frozen instead."""

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
from node.scrapes import counted

from dev import cri
from ttrpc.errors import TtrpcError

Pods = Callable[..., cri.Pod]

#: What criu cannot dump, and a second of CPU every second.
SETUP = """
os.makedirs('/tmp/..2026_01_01_00_00_00.1', exist_ok=True)
os.chdir('/tmp/..2026_01_01_00_00_00.1')
ticks = []
def tick():
    while True:
        time.sleep(0.01)
        ticks.append(time.time())
threading.Thread(target=tick, daemon=True).start()
"""

pytestmark = pytest.mark.annotation("on-failure")


def start(
    pods: Pods, setup: str = "", scaledown: str = "1h", **described: object
) -> sleepers.Sleeper:
    annotations = {sleepers.SCALEDOWN: scaledown, "zeropod.ctrox.dev/on-failure": "freeze"}
    return sleepers.python(pods, SETUP + setup, pod=pods(annotations=annotations), **described)


def stands_still(one: sleepers.Sleeper) -> None:
    """The tree uses no CPU, and is there."""
    assert one.supervisor() == "frozen"

    def used() -> list[str]:
        return [Path(f"/proc/{pid}/schedstat").read_text().split()[0] for pid in one.tree()]

    before = used()
    time.sleep(0.3)
    assert used() == before != []


@pytest.mark.vm
def test_frozen_and_thawed(pods: Pods) -> None:
    """Idle it is frozen with its reason; a client is answered, from the same memory and process."""
    one = start(pods, scaledown="2s")
    tree = one.tree()
    one.ask("memory.update(a=1)")
    found = one.reach("FROZEN")
    assert (found["kind"], found["mode"], found["sleeps"]) == ("unsupported", "frozen", 0)
    assert "configmap" in found["reason"]
    assert not one.image().exists()
    stands_still(one)
    why = one.why()
    assert "keeps its memory" in why
    assert "configmap" in why
    assert one.ask("memory") == {"a": 1}
    found = one.reach("RUNNING")
    assert (found["wakes"], found["wake_cause"]) == (1, "tcp-connect")
    assert one.tree() == tree
    # Woken and idle again, without another try so soon.
    assert one.reach("FROZEN")["failed_sleeps"] == 1
    one.unharmed()


def test_by_hand(pods: Pods, zeropod: Callable[..., cri.Result]) -> None:
    """`zeropod sleep` freezes what it cannot checkpoint, and says so; `zeropod wake` thaws."""
    one = start(pods)
    done = zeropod("sleep", one.reference)
    assert done.code == 0
    assert "FROZEN" in done.out
    counted(one, "zeropod_freezes_total", reason="unsupported")
    time.sleep(0.5)
    assert one.wake()["state"] == "RUNNING"
    gap = one.ask("max(b - a for a, b in zip(ticks, ticks[1:]))")
    assert gap > 0.4
    one.unharmed()


def test_an_open_connection(pods: Pods) -> None:
    """Data on a connection from before thaws it; keepalives do not, and are answered by the kernel."""
    one = start(pods)
    with one.talk() as talk:
        assert talk.ask("memory.update(a=1) or 1") == 1
        stream = talk.sock
        stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 1)
        stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 1)
        stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 2)
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        one.sleep()
        time.sleep(5)
        assert one.state == "FROZEN"
        assert talk.quiet()
        assert talk.ask("memory") == {"a": 1}
        assert one.reach("RUNNING")["wake_cause"] == "tcp-data"
    one.unharmed()


def test_other_doors(pods: Pods) -> None:
    """A datagram, an exec and a signal thaw it."""
    setup = (
        sleepers.DATAGRAMS
        + """
signal.signal(signal.SIGHUP, lambda *_: print('heard', flush=True))
"""
    )
    one = start(pods, setup)
    one.sleep()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as plain:
        plain.settimeout(10)
        plain.sendto(b"hello", (one.ip, 9))
        assert plain.recv(100) == b"hello"
    assert one.reach("RUNNING")["wake_cause"] == "udp"
    one.sleep()
    script = "import socket; socket.create_connection(('127.0.0.1', 7)); print('there')"
    assert one.container.exec(["python3", "-c", script]) == (0, "there\n", "")
    assert one.reach("RUNNING")["wake_cause"] == "exec"
    one.sleep()
    os.kill(one.pid, signal.SIGHUP)
    cri.until(lambda: "heard" in one.container.logs(), 30)
    assert one.reach("RUNNING")["wake_cause"] == "signal"
    one.unharmed()


@pytest.mark.parametrize("wake", ["true", "false"])
def test_a_stop(pods: Pods, tmp_path: Path, wake: str) -> None:
    """A stop thaws it, and its handler runs; with wake-on-stop "false" it ends at once with 0."""
    setup = """
def ended(number, frame):
    open("/data/ended", "w").close()
    os._exit(4)
signal.signal(signal.SIGTERM, ended)
"""
    annotations = {
        sleepers.SCALEDOWN: "1h",
        "zeropod.ctrox.dev/on-failure": "freeze",
        "zeropod.ctrox.dev/wake-on-stop": wake,
    }
    mount = {"container_path": "/data", "host_path": str(tmp_path)}
    pod = pods(annotations=annotations)
    one = sleepers.python(pods, SETUP + setup, pod=pod, mounts=[mount])
    one.sleep()
    # At the end of its grace period it would be 137.
    assert one.container.stop(20).exit_code == (4 if wake == "true" else 0)
    assert (tmp_path / "ended").exists() == (wake == "true")


@pytest.mark.vm
@pytest.mark.parametrize("daemon", ["there", "away"])
def test_by_force(pods: Pods, daemon: str) -> None:
    """SIGKILL ends a frozen container, whoever is there to thaw it."""
    one = start(pods)
    one.sleep()
    with sleepers.without_daemon() if daemon == "away" else contextlib.nullcontext():
        assert one.container.stop(0).exit_code == 137
        one.container.pod.remove()
    cri.until(lambda: one.state == "none", 30)
    left = list(Path("/sys/fs/cgroup").rglob(f"*{one.container.id}*"))
    assert left == []


def test_a_whole_tree(pods: Pods) -> None:
    """Children, daemonised ones and those of a storm of forks stand still together; an exec session goes on."""
    setup = """
def storm():
    while True:
        if os.fork() == 0:
            time.sleep(0.02)
            os._exit(0)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(-1, os.WNOHANG)
import contextlib
threading.Thread(target=storm, daemon=True).start()
if os.fork() == 0:
    os.setsid()
    while True:
        time.sleep(0.01)
"""
    one = start(pods, setup)
    found: list[cri.Result] = []
    session = threading.Thread(
        target=lambda: found.append(one.container.exec(["sh", "-c", "sleep 3; echo done; exit 9"]))
    )
    session.start()
    cri.until(lambda: any(sleepers.comm(pid) == "sh" for pid in sleepers.inside(one)))
    one.sleep()
    stands_still(one)
    session.join(20)
    assert found == [(9, "done\n", "")]
    assert one.state == "FROZEN"
    assert one.ask("1") == 1
    one.unharmed()


def test_beside_one_that_sleeps(pods: Pods) -> None:
    """Of two containers of a pod one is frozen and one checkpointed, in either order; each wakes by its own port alone."""
    annotations = {sleepers.SCALEDOWN: "1h", "zeropod.ctrox.dev/on-failure": "freeze"}
    pod = pods(annotations=annotations)
    cold = sleepers.python(pods, SETUP, pod=pod, port=8000, name="cold")
    warm = sleepers.python(pods, pod=pod, port=8001, name="warm")
    with (
        sleepers.Talk(pod.ip, port=8000) as to_cold,
        sleepers.Talk(pod.ip, port=8001) as to_warm,
    ):
        for first, second in ((cold, warm), (warm, cold)):
            to_cold.ask("memory.update(a=1)")
            to_warm.ask("memory.update(b=2)")
            first.sleep()
            second.sleep()
            assert (cold.state, warm.state) == ("FROZEN", "ASLEEP")
            assert to_cold.ask("memory") == {"a": 1}
            cold.reach("RUNNING")
            assert warm.state == "ASLEEP"
            cold.sleep()
            assert to_warm.ask("memory") == {"b": 2}
            warm.reach("RUNNING")
            assert cold.state == "FROZEN"
            # Over lo, from one to the other.
            ask = "socket.create_connection(('127.0.0.1', 8000)).makefile('rw')"
            to_warm.ask(
                f"memory.update(s={ask}) or memory['s'].write('memory') and memory['s'].write(chr(10))"
            )
            to_warm.ask("memory['s'].flush()")
            assert "'a': 1" in to_warm.ask("memory.pop('s').readline()").replace('"', "'")
            cold.reach("RUNNING")
    cold.unharmed()
    warm.unharmed()


@pytest.mark.timeout(120)
def test_a_daemon_that_dies(pods: Pods) -> None:
    """Frozen it is found frozen and goes on; a client that came in between is answered."""
    one = start(pods)
    with one.talk() as talk:
        talk.ask("memory.update(a=1)")
        one.sleep()
        with sleepers.without_daemon():
            stands_still(one)
            talk.send("memory")
            time.sleep(0.5)
            stands_still(one)
        assert talk.answer() == {"a": 1}
    one.reach("RUNNING")
    for _ in range(3):
        one.sleep()
        sleepers.kill_daemon()
        sleepers.ready()
        one.reach("RUNNING")
        assert one.supervisor() == "run"
        assert one.ask("memory") == {"a": 1}
        one.reach("RUNNING")
    one.unharmed()


def test_a_daemon_that_goes(pods: Pods) -> None:
    """A planned stop of the daemon thaws: nobody is there to do it later."""
    one = start(pods)
    one.sleep()
    pid = sleepers.service_pid("daemon")
    hold = Path("/run/node/hold/daemon")
    hold.touch()
    try:
        os.kill(pid, signal.SIGTERM)
        cri.until(lambda: not sleepers.alive(pid), 30)
        assert one.supervisor() == "run"
        assert one.ask("1") == 1
    finally:
        hold.unlink()
        sleepers.ready()
    one.reach("RUNNING")
    one.unharmed()


@pytest.mark.annotation("max-image-size")
def test_an_image_that_is_too_large(pods: Pods) -> None:
    """Whatever is in the way: an image that its owner does not want is no reason to stay awake either."""
    annotations = {
        sleepers.SCALEDOWN: "1h",
        "zeropod.ctrox.dev/on-failure": "freeze",
        "zeropod.ctrox.dev/max-image-size": "1Mi",
    }
    one = sleepers.python(pods, pod=pods(annotations=annotations))
    one.sleep()
    found = one.info()
    assert (found["state"], found["kind"]) == ("FROZEN", "image-size")
    assert one.ask("1") == 1
    one.unharmed()


def test_stay_is_the_default(pods: Pods) -> None:
    """Without the annotation it stays awake, with its reason."""
    one = sleepers.python(pods, SETUP)
    with pytest.raises(TtrpcError, match="configmap"):
        one.sleep()
    assert one.state == "RUNNING"
    assert one.supervisor() == "run"
