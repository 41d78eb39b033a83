"""Everything is taken away while containers run: who sleeps is woken first, and nobody is harmed."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from node import leaks, sleepers

from dev import cgroups, cri
from installer import sleepers as found
from installer.host import Host

Pods = Callable[..., cri.Pod]

ASLEEP = 4


@pytest.fixture
def hold() -> Iterator[Path]:
    """The file that keeps the daemon away; afterwards it is back, and as before."""
    file = Path("/run/node/hold/daemon")
    yield file
    file.unlink(missing_ok=True)
    sleepers.ready()


def uninstall(*words: str) -> subprocess.Popen[str]:
    """Begin to take all away that is not the node's own: its containerd was configured by somebody else."""
    command = [
        sys.executable,
        "-u",
        "-m",
        "installer",
        "uninstall",
        "--opt=/opt/zeropod-test",
        *words,
    ]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdout=pipe, stderr=subprocess.STDOUT, text=True, cwd="/src")


def filters(pid: int) -> str:
    """What is attached to the links of a pod."""
    inside = ["nsenter", "-t", str(pid), "-n"]
    told = [
        subprocess.run(
            [*inside, "tc", "filter", "show", "dev", link, way],
            capture_output=True, text=True, check=True,
        ).stdout
        for link in ("eth0", "lo")
        for way in ("ingress", "egress")
    ]  # fmt: skip
    return "".join(told)


def end(file: Path) -> None:
    """End the daemon as its pod's deletion would."""
    file.touch()
    os.kill(sleepers.service_pid("daemon"), signal.SIGTERM)


@pytest.mark.both
@pytest.mark.timeout(240)
def test_who_sleeps_is_woken_and_nothing_is_left(
    pods: Pods, hold: Path, request: pytest.FixtureRequest
) -> None:
    """A container asleep, one with an open connection and one that runs: all run on, and no trace is on the node."""
    one, kept, awake = (sleepers.python(pods) for _ in range(3))
    one.ask("memory.update(a=1)")
    with kept.talk() as talk:
        talk.ask("memory.update(a=2)")
        one.sleep()
        kept.sleep()
        assert [each.title for each in found.find(Host())] == sorted(
            [one.reference, kept.reference]
        )
        helpers = sleepers.helpers()
        assert all(sleepers.alive(pid) for pid in helpers.values())
        work = uninstall("--wait=60")
        assert work.stdout is not None
        request.addfinalizer(work.stdout.close)
        told = []
        for line in work.stdout:
            told.append(line)
            if "waiting for the daemon" in line:
                break
        assert "3 of 3 containers are awake and stay so\n" in told, told
        for each in (one, kept, awake):
            assert each.supervisor() == "run"
            assert filters(each.pid) == ""
        end(hold)
        told += list(work.stdout)
        assert work.wait(60) == 0, told
        assert talk.ask("memory['a']") == 2
    assert one.ask("memory['a']") == 1
    for each in (one, kept, awake):
        each.unharmed()
    for path in (
        "/run/zeropod",
        "/sys/fs/bpf/zeropod",
        "/var/lib/zeropod/images",
        "/opt/zeropod-test",
    ):
        assert not Path(path).exists(), path
    assert [root for root in cgroups.hierarchies() if (root / leaks.SLICE).exists()] == []
    assert not any(sleepers.alive(pid) for pid in helpers.values()), helpers
    told = [uninstall("--wait=5").communicate(timeout=60)[0]]
    assert told == ["nothing to do\n"]


@pytest.mark.timeout(240)
def test_without_a_daemon_nothing_that_sleeps_is_lost_silently(pods: Pods) -> None:
    """It is refused, by name and with what can be done; the image stays, and a daemon that is back wakes it."""
    one = sleepers.python(pods)
    one.ask("memory.update(a=1)")
    one.sleep()
    with sleepers.without_daemon():
        work = uninstall("--wait=5")
        told = work.communicate(timeout=60)[0]
        assert work.returncode == ASLEEP, told
        assert one.reference in told.splitlines()[-1]
        assert "--force" in told.splitlines()[-1]
        assert one.image().exists()
        assert one.supervisor() == "asleep"
    assert one.ask("memory['a']") == 1
    one.unharmed()


@pytest.mark.timeout(240)
def test_what_is_given_up_by_force_is_started_anew(pods: Pods, hold: Path) -> None:
    """Its supervisor ends with 71, so that the kubelet restarts it; a container that runs is not touched."""
    one, awake = sleepers.python(pods), sleepers.python(pods)
    awake.ask("memory.update(a=1)")
    one.sleep()
    hold.touch()
    with contextlib.suppress(ProcessLookupError):
        os.kill(sleepers.service_pid("daemon"), signal.SIGKILL)
    work = uninstall("--wait=5", "--force")
    told = work.communicate(timeout=60)[0]

    assert work.returncode == 0, told
    assert f"lost: {one.reference}" in told
    assert one.container.wait("exited").exit_code == 71
    assert awake.ask("memory['a']") == 1
    awake.unharmed()
    assert not one.image().exists()


@pytest.mark.timeout(240)
def test_a_daemon_that_stays_stops_the_uninstallation(pods: Pods, hold: Path) -> None:
    """It would go on with files that are gone; what it has woken does not sleep again meanwhile."""
    one = sleepers.python(pods, scaledown="1s")
    one.reach("ASLEEP")
    work = uninstall("--wait=3")
    told = work.communicate(timeout=60)[0]

    assert work.returncode == 1, told
    assert "delete the DaemonSet" in told.splitlines()[-1]
    assert one.supervisor() == "run"
    assert "being uninstalled" in one.why()
    assert Path("/run/zeropod/zeropod.sock").exists()
    sleepers.kill_daemon()
    sleepers.ready()
    one.reach("ASLEEP")
