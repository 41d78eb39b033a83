"""Every process of ours is killed at every moment: nobody gets a reset, nothing that was in memory is lost.

Moments are met by waiting for the process or state in question and then a while longer; no hook in the product.
"""

from __future__ import annotations

import contextlib
import functools
import os
import random
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Self

import grpc
import pytest
from node import sleepers
from node.plugins import Plugin
from node.sleepers import Sleeper

from bpf.maps import Maps
from bpf.pins import Pins
from checkpointer import settings
from dev import cgroups, cri
from ttrpc.errors import TtrpcError

Pods = Callable[..., cri.Pod]

STATE = settings.Settings().state_dir
STAGING, FAILED = STATE / "staging", STATE / "failed"
RECORDS = settings.Settings().run_dir / "containers"

#: About how long a sleep and a wake take here, in seconds: faults are spread over that.
SLEEP_SPAN, WAKE_SPAN = 0.18, 0.06

LARGE = "import hashlib, random\nballast = random.Random(1).randbytes(300 << 20)"
DIGEST = "hashlib.md5(ballast).hexdigest()"


def moments(count: int, span: float) -> Iterator[float]:
    """So many delays over a span of seconds, each at a random place of its share; different in each run."""
    for index in range(count):
        yield (index + random.random()) * span / count


def in_background(function: Callable[[], object]) -> threading.Thread:
    """Run something whose outcome is not the point: that of the fault which meets it is."""

    def run() -> None:
        with contextlib.suppress(TtrpcError, OSError, grpc.RpcError):
            function()

    thread = threading.Thread(target=run)
    thread.start()
    return thread


def kill(pid: int) -> bool:
    """SIGKILL; False if it had ended."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


def kill_daemon_cgroup() -> None:
    """SIGKILL to every process in the cgroup that the daemon was started in, as a DaemonSet's deletion does."""
    pid = sleepers.service_pid("daemon")
    for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
        number, controllers, path = line.split(":", 2)
        if "pids" in controllers.split(",") or number == "0":
            root = next(
                (r for r in cgroups.hierarchies() if "pids" in r.name.split(",")), cgroups.ROOT
            )
            if (root / path.lstrip("/") / "cgroup.procs").exists() and path != "/":
                for word in (root / path.lstrip("/") / "cgroup.procs").read_text().split():
                    kill(int(word))
                return
    raise AssertionError("the daemon is in no cgroup of its own")


class Strike:
    """While the context lasts the first criu that a zygote starts is killed, `delay` seconds after its start."""

    def __init__(self, delay: float, kind: str = "swrk") -> None:
        self.killed = False
        self._zygote = sleepers.helpers()[kind]
        self._before = set(sleepers.children(self._zygote))
        self._delay = delay
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.join()

    def _fresh(self) -> set[int]:
        return set(sleepers.children(self._zygote)) - self._before

    def _run(self) -> None:
        deadline = time.monotonic() + 5
        while not self._fresh() and time.monotonic() < deadline:
            pass
        time.sleep(self._delay)
        # Not the first one: that may only have been the father of the one that works. Nor its tracer, which is there
        # to outlive it.
        self.killed = sum(kill(pid) for pid in self._fresh() if sleepers.comm(pid) == "criu") > 0


# --- the daemon -------------------------------------------------------------------------------------------------------


@pytest.mark.both
def test_daemon_killed_while_it_runs(pods: Pods) -> None:
    """An awake container does not notice that the daemon is killed, and the next daemon puts it to sleep."""
    one = sleepers.python(pods)
    with one.talk() as talk:
        talk.ask("memory.update(a=1)")
        with sleepers.without_daemon():
            assert talk.ask("memory['a']") == 1
            assert one.ask("memory['a']") == 1
        one.reach("RUNNING")
        one.sleep()
        assert talk.ask("memory['a']") == 1
    one.unharmed()


@pytest.mark.both
def test_daemon_killed_asleep(pods: Pods) -> None:
    """What comes for a sleeping container while there is no daemon is not reset, and answered by the next one."""
    one = sleepers.python(pods)
    with one.talk() as kept, socket.socket() as fresh:
        kept.ask("memory.update(a=1)")
        one.sleep()
        fresh.setblocking(False)
        with sleepers.without_daemon():
            fresh.connect_ex((one.ip, sleepers.PORT))
            kept.send("memory['a']")
            time.sleep(2.5)
            assert fresh.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0
            assert one.supervisor() == "asleep"
            assert kept.quiet()
        assert kept.answer() == 1
        fresh.settimeout(20)
        fresh.sendall(b"memory['a'] + 1\n")
        assert fresh.recv(99) == b"2\n"
    one.unharmed()


def test_daemon_killed_asleep_without_traffic(pods: Pods) -> None:
    """A container that slept when the daemon was killed sleeps on under the next one, and wakes for a packet."""
    one = sleepers.python(pods)
    one.ask("memory.update(a=1)")
    one.sleep()
    for _ in range(3):
        sleepers.kill_daemon()
        time.sleep(0.3)
        found = one.reach("ASLEEP")
        assert found["image_bytes"] > 1 << 20
    time.sleep(1)
    assert one.state == "ASLEEP"
    assert one.ask("memory['a']") == 1
    one.unharmed()


@pytest.mark.timeout(120)
def test_daemon_killed_with_many_asleep(pods: Pods) -> None:
    """Ten containers of six pods that slept when the daemon was killed all wake, each with its own memory."""
    homes = [pods(annotations={sleepers.SCALEDOWN: "1h"}) for _ in range(6)]
    many = [
        sleepers.python(pods, pod=home, port=port, name=f"port-{port}")
        for number, home in enumerate(homes)
        for port in ((7, 8) if number < 4 else (7,))
    ]
    ports = [int(one.container.name.rpartition("-")[2]) for one in many]
    kept = [sleepers.Talk(one.ip, port=port) for one, port in zip(many, ports, strict=True)]
    for number, talk in enumerate(kept):
        talk.ask(f"memory.update(n={number})")
    for one in many:
        one.sleep()
    with sleepers.without_daemon():
        for talk in kept[::2]:
            talk.send("memory['n']")
        time.sleep(0.5)
    for talk in kept[1::2]:
        talk.send("memory['n']")
    assert [talk.answer() for talk in kept] == list(range(10))
    for one, talk in zip(many, kept, strict=True):
        one.reach("RUNNING")
        one.unharmed()
        talk.close()


def test_stop_without_a_daemon(pods: Pods) -> None:
    """A sleeping container that is stopped while there is no daemon ends at once with 0, and its traces go later."""
    one = sleepers.python(pods)
    one.sleep()
    with sleepers.without_daemon():
        begun = time.monotonic()
        assert one.container.stop(20).exit_code == 0
        assert time.monotonic() - begun < 15
    cri.until(lambda: not one.image().exists(), 30)


@pytest.mark.timeout(180)
def test_daemon_killed_in_mid_sleep(pods: Pods) -> None:
    """Killed at twelve moments of a sleep: the open connection answers, and the container sleeps the next time."""
    one = sleepers.python(pods)
    with one.talk() as talk:
        for number, delay in enumerate(moments(12, SLEEP_SPAN)):
            talk.ask(f"memory.update(n={number})")
            attempt = in_background(one.sleep)
            time.sleep(delay)
            sleepers.kill_daemon()
            assert talk.ask("memory['n']") == number, delay
            with one.talk() as fresh:
                assert fresh.ask("memory['n']") == number, delay
            attempt.join(60)
            sleepers.ready()
            one.reach("RUNNING")
        one.sleep()
        assert talk.ask("memory['n']") == 11
    one.unharmed()
    assert not list(STAGING.glob(one.container.id + "*"))


@pytest.mark.timeout(180)
def test_daemon_killed_in_mid_wake(pods: Pods) -> None:
    """Killed at twelve moments of a wake: the request that woke it is answered, from the memory it slept with."""
    one = sleepers.python(pods)
    with one.talk() as talk:
        for number, delay in enumerate(moments(12, WAKE_SPAN)):
            talk.ask(f"memory.update(n={number})")
            one.reach("RUNNING")
            one.sleep()
            talk.send("memory['n']")
            time.sleep(delay)
            sleepers.kill_daemon()
            assert talk.answer() == number, delay
            sleepers.ready()
            one.reach("RUNNING")
            one.unharmed()
        one.sleep()
        assert one.ask("memory['n']") == 11
    cri.until(lambda: not one.image().exists(), 30)


@pytest.mark.timeout(120)
def test_daemon_killed_while_an_exec_waits(pods: Pods) -> None:
    """An exec that waits for a wake when the daemon is killed does not hang, and the container is well afterwards."""
    one = sleepers.python(pods)
    for delay in moments(4, WAKE_SPAN):
        one.sleep()
        waiting = in_background(lambda: one.container.exec(["true"]))
        time.sleep(0.05 + delay)
        sleepers.kill_daemon()
        waiting.join(60)
        assert not waiting.is_alive()
        sleepers.ready()
        one.reach("RUNNING", "ASLEEP")
        assert one.ask("1") == 1
        one.reach("RUNNING")
    one.unharmed()


@pytest.mark.timeout(120)
def test_daemon_stopped_as_planned(pods: Pods) -> None:
    """SIGTERM in mid-sleep and in mid-wake: what was begun is finished, and the next daemon goes on from there."""
    one = sleepers.python(pods)
    with one.talk() as talk:
        talk.ask("memory.update(a=1)")
        for delay in moments(4, SLEEP_SPAN):
            attempt = in_background(one.sleep)
            time.sleep(delay)
            os.kill(sleepers.service_pid("daemon"), signal.SIGTERM)
            assert talk.ask("memory['a']") == 1, delay
            attempt.join(60)
            sleepers.ready()
            one.reach("RUNNING", "ASLEEP")
            assert talk.ask("memory['a']") == 1, delay
            one.reach("RUNNING")
        for delay in moments(4, WAKE_SPAN):
            one.sleep()
            talk.send("memory['a']")
            time.sleep(delay)
            os.kill(sleepers.service_pid("daemon"), signal.SIGTERM)
            assert talk.answer() == 1, delay
            sleepers.ready()
            one.reach("RUNNING")
    one.unharmed()


@pytest.mark.timeout(120)
def test_daemon_cgroup_killed_in_mid_dump(pods: Pods) -> None:
    """With all that runs in the daemon's cgroup killed in mid-dump the application answers on."""
    one = sleepers.python(pods)
    with one.talk() as talk:
        for number, delay in enumerate(moments(6, 0.1)):
            talk.ask(f"memory.update(n={number})")
            attempt = in_background(one.sleep)
            cri.until(lambda: one.supervisor() == "armed", 30)
            time.sleep(delay)
            kill_daemon_cgroup()
            assert talk.ask("memory['n']") == number, delay
            attempt.join(60)
            sleepers.ready()
            one.reach("RUNNING")
    one.unharmed()


@pytest.mark.timeout(120)
def test_daemon_cgroup_killed_in_mid_drain(pods: Pods) -> None:
    """Killed while the pages of a large image still come in: they all do, and the image goes in the end."""
    one = sleepers.python(pods, LARGE)
    with one.talk() as talk:
        digest = talk.ask(DIGEST)
        for delay in moments(3, 0.15):
            one.sleep()
            assert talk.ask("len(ballast)") == 300 << 20
            time.sleep(delay)
            kill_daemon_cgroup()
            assert talk.ask(DIGEST) == digest, delay
            sleepers.ready()
            one.reach("RUNNING")
            cri.until(lambda: not one.image().exists(), 30)
    one.unharmed()


# --- helpers ----------------------------------------------------------------------------------------------------------


@pytest.mark.timeout(180)
def test_criu_killed_in_a_dump(pods: Pods) -> None:
    """Criu killed at twenty points of a dump: open connections and the memory are as if nothing had been.

    Of an event loop. A thread that is blocked in recv gets EPERM (tcp_recvmsg of a socket in repair mode): the kernel
    lets it go on in the very moment in which criu ends.
    """
    killed = 0
    delays = list(moments(20, 0.028))
    # Five points each: what a dead criu leaves open in the application may make its later dumps fail early.
    for few in (delays[0::4], delays[1::4], delays[2::4], delays[3::4]):
        one = sleepers.redis(pods)
        with socket.create_connection((one.ip, 6379), timeout=20) as kept:
            for delay in few:
                kept.sendall(f"SET n {delay!r}\r\n".encode())
                assert kept.recv(999) == b"+OK\r\n"
                with Strike(delay) as strike:
                    attempt = in_background(one.sleep)
                attempt.join(60)
                killed += strike.killed
                kept.sendall(b"GET n\r\n")
                assert kept.recv(999).endswith(f"\r\n{delay!r}\r\n".encode()), delay
                one.reach("RUNNING")
                assert one.supervisor() == "run"
        one.unharmed()
    assert killed >= 4


@pytest.mark.timeout(120)
def test_criu_killed_under_a_blocked_thread(pods: Pods) -> None:
    """Criu killed in a dump while a thread waits in recv: the wait goes on, though the socket was in repair mode."""
    for _ in range(3):
        one = sleepers.python(pods)
        with one.talk() as talk:
            for number, delay in enumerate(moments(4, 0.028)):
                with Strike(delay):
                    attempt = in_background(one.sleep)
                attempt.join(60)
                assert talk.ask(f"memory.update(n={number}) or memory['n']") == number, delay
                one.reach("RUNNING")
        one.unharmed()


@pytest.mark.timeout(180)
def test_criu_killed_in_a_restore(pods: Pods) -> None:
    """Criu killed at ten points of a restore: the request that woke the container is answered all the same."""
    one = sleepers.python(pods)
    killed = 0
    with one.talk() as talk:
        for number, delay in enumerate(moments(10, 0.025)):
            talk.ask(f"memory.update(n={number})")
            one.reach("RUNNING")
            one.sleep()
            with Strike(delay) as strike:
                talk.send("memory['n']")
            killed += strike.killed
            assert talk.answer() == number, delay
            one.reach("RUNNING")
            one.unharmed()
        assert killed >= 2


@pytest.mark.timeout(120)
def test_page_daemon_killed(pods: Pods) -> None:
    """A page daemon that is killed in mid-drain leaves no zeros behind: the application has all of its memory."""
    one = sleepers.python(pods, LARGE)
    digest = one.ask(DIGEST)
    killed = 0
    for delay in moments(12, 0.1):
        one.sleep()
        lazy = sleepers.helpers()["lazy"]
        with one.talk() as talk:
            talk.ask("1")
            time.sleep(delay)
            killed += sum(
                kill(pid) for pid in sleepers.descendants(lazy) if not sleepers.children(pid)
            )
        cri.until(lambda: not one.info()["draining"], 30)
        assert one.ask(DIGEST, timeout=40) == digest, delay
        if killed >= 2:  # a drain takes a tenth of a second, and has to be caught
            break
    assert killed
    one.unharmed()


@pytest.mark.parametrize("state", ["awake", "asleep"])
def test_zygotes_killed(pods: Pods, state: str) -> None:
    """With both zygotes killed the next sleep or wake starts new ones and works."""
    one = sleepers.python(pods)
    one.ask("memory.update(a=1)")
    if state == "asleep":
        one.sleep()
    before = sleepers.helpers()
    for pid in before.values():
        kill(pid)
    cri.until(lambda: not any(sleepers.alive(pid) for pid in before.values()), 30)
    if state == "awake":
        one.sleep()
    assert one.ask("memory['a']") == 1
    one.reach("RUNNING")
    one.sleep()
    assert one.ask("memory['a']") == 1
    assert sleepers.helpers()["swrk"] != before["swrk"]
    one.unharmed()


# --- failures ---------------------------------------------------------------------------------------------------------


@pytest.mark.timeout(120)
def test_a_request_at_any_moment_of_a_dump(pods: Pods) -> None:
    """A request that comes while the container falls asleep is answered, whether the sleep is called off or not."""
    one = sleepers.python(pods)
    off = 0
    with one.talk() as talk:
        for number, delay in enumerate(moments(20, SLEEP_SPAN)):
            before = one.info()["sleeps"]
            attempt = in_background(one.sleep)
            time.sleep(delay)
            assert talk.ask(f"memory.update(n={number}) or memory['n']") == number, delay
            attempt.join(60)
            one.wake()
            off += one.info()["sleeps"] == before
    assert off
    assert one.info()["failed_sleeps"] == 0
    one.unharmed()


@pytest.mark.parametrize("fault", ["another file system", "a full disk"])
def test_an_image_that_cannot_be_written(pods: Pods, fault: str) -> None:
    """When the image cannot be written or committed the application runs on, `why` says so, and the next sleep works."""
    one = sleepers.python(pods, "ballast = os.urandom(8 << 20)")
    with one.talk() as talk:
        talk.ask("memory.update(a=1)")
        size = "256m" if fault == "another file system" else "1m"
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={size},mode=700", "tmpfs", STAGING], check=True
        )
        try:
            for _ in range(3):
                with pytest.raises(TtrpcError):
                    one.sleep()
                assert talk.ask("memory['a']") == 1
                assert one.ask("len(ballast)") == 8 << 20
            assert one.state == "RUNNING"
            assert one.supervisor() == "run"
            assert one.info()["failed_sleeps"] == 3
            assert "did not work" in one.why()
        finally:
            subprocess.run(["umount", STAGING], check=True)
        one.sleep()
        assert talk.ask("memory['a']") == 1
    assert one.info()["failed_sleeps"] == 0
    one.unharmed()


def damage(one: Sleeper) -> Callable[[], None]:
    """Make a sleeping container's image unusable; returns what makes it good again."""
    [core] = sorted(one.image().glob("core-*.img"))[:1]
    good = core.read_bytes()
    core.write_bytes(good[: len(good) // 2])
    return lambda: (core.write_bytes(good), None)[1]


@pytest.mark.timeout(120)
def test_a_restore_that_fails_is_tried_again(pods: Pods) -> None:
    """A damaged image is kept and tried again; once it is good again the waiting request is answered."""
    one = sleepers.python(pods)
    with one.talk() as talk:
        talk.ask("memory.update(a=1)")
        one.sleep()
        repair = damage(one)
        talk.send("memory['a']")
        cri.until(lambda: one.info()["failed_wakes"] >= 2, 30)
        assert one.state == "WAKING"
        assert "tried again" in one.why()
        one.unharmed()
        assert one.image().exists()
        repair()
        assert talk.answer() == 1
    assert one.reach("RUNNING")["failed_wakes"] == 0
    one.unharmed()


@pytest.mark.timeout(120)
def test_a_restore_that_never_works(pods: Pods) -> None:
    """After five restores that failed the container ends with 71, the reason is logged, and the image is kept."""
    log = Path("/var/log/node/daemon.log")
    mark = log.stat().st_size
    one = sleepers.python(pods)
    one.sleep()
    damage(one)
    attempt = in_background(lambda: one.ask("1"))
    assert one.container.wait("exited", 60).exit_code == 71
    attempt.join(30)
    [kept] = FAILED.glob(one.container.id + "~*")
    assert (kept / "inventory.img").exists()
    said = [
        line
        for line in log.read_bytes()[mark:].decode().splitlines()
        if "container.failed" in line
    ]
    assert len(said) == 1
    assert one.reference.rpartition("/")[0] in said[0]
    assert "reason=" in said[0]
    shutil.rmtree(kept)


# --- the plugin and containerd ----------------------------------------------------------------------------------------


@pytest.mark.both
def test_plugin_killed(pods: Pods, plugin: Plugin) -> None:
    """The plugin killed with a pod asleep: it sleeps on and wakes, and a new pod is managed by the next plugin."""
    one = sleepers.python(pods)
    one.ask("memory.update(a=1)")
    one.sleep()
    plugin.away()
    assert one.state == "ASLEEP"
    assert one.ask("memory['a']") == 1
    plugin.back()  # a pod that starts before is not managed
    two = sleepers.python(pods)
    assert two.sleep()["state"] == "ASLEEP"
    assert {found["id"] for found in sleepers.call("List")} == {one.container.id, two.container.id}


@pytest.mark.both
@pytest.mark.timeout(120)
def test_containerd_killed(pods: Pods, tmp_path: Path, runtime: cri.Runtime) -> None:
    """Containerd killed with a pod asleep: it is Running for the next one, wakes, sleeps, and stops as it should."""
    mount = {"container_path": "/data", "host_path": str(tmp_path)}
    setup = "signal.signal(signal.SIGTERM, lambda *_: os._exit(4))"
    one = sleepers.python(pods, setup, mounts=[mount])
    one.ask("memory.update(a=1)")
    one.sleep()
    kill(sleepers.service_pid("containerd"))

    def answers() -> bool:
        try:
            return bool(runtime.call("Version", deadline=2).name)
        except grpc.RpcError:
            return False

    time.sleep(0.3)
    cri.until(answers, 30)
    one.unharmed()
    assert one.state == "ASLEEP"
    assert one.ask("memory['a']") == 1
    assert one.container.exec(["true"]).code == 0
    one.reach("RUNNING")
    one.sleep()
    one.unharmed()
    assert one.container.stop(20).exit_code == 4


# --- the end ----------------------------------------------------------------------------------------------------------


@functools.cache
def pinned() -> Maps:
    """The datapath's maps, opened once: each time would cost ten descriptors."""
    return Maps(Pins(settings.Settings().pin_root).map)


def traces() -> dict[str, set[str]]:
    """What containers leave with us, by kind."""
    maps = pinned()
    tables = ("pods", "ports", "conns", "activity", "pod_names", "hold_names")
    daemon = sleepers.service_pid("daemon")
    found = {f"map {name}": {repr(key) for key in getattr(maps, name)} for name in tables}
    found["images"] = {path.name for path in (STATE / "images").iterdir()}
    found["staging"] = {path.name for path in STAGING.iterdir()}
    found["records"] = {path.name for path in RECORDS.iterdir()}
    found["workers"] = {
        f"{pid} {sleepers.comm(pid)}"
        for zygote in sleepers.helpers().values()
        for pid in sleepers.descendants(zygote)
    }
    found["marks"] = set()
    for info in Path(f"/proc/{daemon}/fdinfo").iterdir():
        with contextlib.suppress(FileNotFoundError):
            lines = info.read_text().splitlines()
            found["marks"] |= {line for line in lines if line.startswith("fanotify ")}
    found["threads of pods"] = {
        os.readlink(link) for link in Path(f"/proc/{daemon}/task").glob("*/ns/net")
    }
    found["listed"] = {one["id"] for one in sleepers.call("List")}
    return found


def nothing_since(before: dict[str, set[str]], what: str, but: Collection[str] = ()) -> None:
    """Wait until there are no traces but those of before."""
    left: dict[str, set[str]] = {}

    def clean() -> bool:
        now = traces()
        left.clear()
        left.update({kind: now[kind] - before[kind] for kind in set(now) - set(but)})
        return not any(left.values())

    try:
        cri.until(clean, 30)
    except TimeoutError:
        pytest.fail(
            f"{what}: left behind { {kind: found for kind, found in left.items() if found} }"
        )


def descriptors() -> int:
    """How many the daemon has open."""
    return len(os.listdir(f"/proc/{sleepers.service_pid('daemon')}/fd"))


@pytest.mark.timeout(180)
def test_a_deleted_pod_leaves_nothing(pods: Pods, runtime: cri.Runtime) -> None:
    """A pod deleted in any state leaves no image, map entry, mark, record, process or cgroup behind."""
    warm = sleepers.python(pods)
    warm.sleep()
    warm.container.pod.remove()
    cri.until(lambda: not traces()["listed"], 30)
    time.sleep(0.5)
    before, open_before = traces(), descriptors()

    def running(_: Sleeper) -> None:
        return

    def falling_asleep(one: Sleeper) -> None:
        started.append(in_background(one.sleep))
        time.sleep(random.uniform(0.02, SLEEP_SPAN))

    def asleep(one: Sleeper) -> None:
        one.sleep()

    def waking(one: Sleeper) -> None:
        one.sleep()
        started.append(in_background(lambda: one.ask("1", timeout=3)))
        time.sleep(random.uniform(0.0, WAKE_SPAN))

    def failing(one: Sleeper) -> None:
        one.sleep()
        damage(one)
        started.append(in_background(lambda: one.ask("1", timeout=3)))
        cri.until(lambda: one.info()["failed_wakes"] > 0, 30)

    def draining(one: Sleeper) -> None:
        one.ask("memory.update(ballast=os.urandom(120 << 20)) or 1")
        one.sleep()
        one.ask("1")

    for bring in (
        running,
        falling_asleep,
        falling_asleep,
        asleep,
        waking,
        waking,
        failing,
        draining,
    ):
        started: list[threading.Thread] = []
        one = sleepers.python(pods)
        bring(one)
        one.container.stop(0)
        one.container.pod.remove()
        for thread in started:
            thread.join(30)
        nothing_since(before, f"deleted when it was {bring.__name__}")
    cri.until(lambda: descriptors() <= open_before + 1, 30)


@pytest.mark.timeout(120)
def test_a_pod_deleted_without_a_daemon_leaves_nothing(pods: Pods) -> None:
    """A sleeping pod that is deleted while there is no daemon leaves nothing once there is one again."""
    before = traces()
    one = sleepers.python(pods)
    one.sleep()
    with sleepers.without_daemon():
        one.container.pod.remove()
    # Of another daemon these have other numbers.
    nothing_since(before, "deleted", but={"marks", "threads of pods", "workers"})
