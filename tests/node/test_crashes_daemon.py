"""The daemon is killed at every moment: nobody gets a reset, nothing that was in memory is lost.

Moments are met by waiting for the process or state in question and then a while longer; no hook in the product.
"""

from __future__ import annotations

import os
import signal
import socket
import time
from pathlib import Path

import pytest
from node import sleepers
from node.crashes import (
    DIGEST,
    LARGE,
    SLEEP_SPAN,
    STAGING,
    WAKE_SPAN,
    Pods,
    in_background,
    kill,
    moments,
)

from dev import cgroups, cri


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
        assert one.container.stop(20).exit_code == 0, "not 137, as at the end of its grace period"
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
    """With all that runs in the daemon's cgroup killed in mid-dump the application answers on; the zygotes are not in it."""
    one = sleepers.python(pods)
    helpers = sleepers.helpers()
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
    assert sleepers.helpers() == helpers
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


@pytest.mark.timeout(120)
def test_daemon_killed_while_it_starts_a_zygote(pods: Pods) -> None:
    """The next daemon ends one that was not tried yet, and starts its own: none is left over, as after every test."""
    one = sleepers.python(pods)
    one.ask("memory.update(a=1)")
    for delay in moments(8, SLEEP_SPAN):
        kill(sleepers.helpers()["swrk"])
        attempt = in_background(one.sleep)
        time.sleep(delay)
        sleepers.kill_daemon()
        attempt.join(60)
        sleepers.ready()
        one.reach("RUNNING", "ASLEEP")
        assert one.ask("memory['a']") == 1, delay
        one.reach("RUNNING")
    one.unharmed()
