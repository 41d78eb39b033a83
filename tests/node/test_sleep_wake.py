"""A container asleep and awake again: its data, what the runtime and the command line say of it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from node import sleepers

from dev import cgroups, cri

Run = Callable[..., cri.Result]
Pods = Callable[..., cri.Pod]


@pytest.mark.smoke
@pytest.mark.both
def test_redis_keeps_its_data(pods: Pods) -> None:
    """An idle redis falls asleep by itself, and a new connection finds all of its keys."""
    one = sleepers.redis(pods, scaledown="1s")
    assert sleepers.command(one.ip, "DEBUG", "POPULATE", "10000", "key", "100") == "+OK"
    digest = sleepers.command(one.ip, "DEBUG", "DIGEST")
    one.reach("ASLEEP", timeout=20)
    assert one.supervisor() == "asleep"
    assert sleepers.command(one.ip, "DEBUG", "DIGEST") == digest
    found = one.reach("RUNNING")
    assert (found["sleeps"], found["wakes"], found["wake_cause"]) == (1, 1, "tcp-connect")
    one.unharmed()


@pytest.mark.smoke
@pytest.mark.both
def test_the_runtime_sees_one_running_container(pods: Pods) -> None:
    """Through ten sleeps and wakes the runtime reports Running, attempt 0 and the first start time."""
    one = sleepers.python(pods)
    with one.talk() as talk:
        for number in range(10):
            assert talk.ask(f"memory.update(n={number}) or len(memory)") == 1
            assert one.sleep()["state"] == "ASLEEP"
            one.unharmed()
            assert talk.ask("memory['n']") == number
            one.reach("RUNNING")
            one.unharmed()


def test_asleep_it_costs_no_process(pods: Pods) -> None:
    """Asleep there is no process but the supervisor, and the memory of the application is free."""
    one = sleepers.python(pods, "ballast = os.urandom(40 << 20)")
    before = resident(one.container)
    one.sleep()
    assert one.tree() == []
    assert cgroup_pids(one.container) == [one.pid]
    assert resident(one.container) < 1 << 20 < 40 << 20 < before
    assert one.ask("len(ballast)") == 40 << 20


def test_it_sleeps_again_and_again(pods: Pods) -> None:
    """After a wake the idle time starts anew, and it falls asleep by itself a second and a third time."""
    one = sleepers.python(pods, scaledown="1s")
    for number in (1, 2, 3):
        found = one.reach("ASLEEP")
        assert (found["sleeps"], found["cause"]) == (number, "idle")
        one.ask("1")
    one.unharmed()


@pytest.mark.annotation("scaledown-duration")
def test_traffic_keeps_it_awake(pods: Pods) -> None:
    """As long as requests come within the scaledown-duration it does not sleep."""
    one = sleepers.python(pods, scaledown="2s")
    with one.talk() as talk:
        talk.ask("1")
        sleeps = one.info()["sleeps"]
        for _ in range(12):
            assert talk.ask("1") == 1
            time.sleep(0.4)
        assert one.info()["sleeps"] == sleeps
    one.reach("ASLEEP")


@pytest.mark.annotation("scaledown-duration")
def test_zero_means_never(pods: Pods) -> None:
    """With a scaledown-duration of 0 it stays awake, `why` says so, and it still can be told to sleep."""
    one = sleepers.python(pods, scaledown="0")
    time.sleep(2)
    assert one.state == "RUNNING"
    assert "never sleeps" in one.why()
    one.sleep()
    assert one.ask("1+1") == 2


def test_a_port_opened_late_is_found(pods: Pods) -> None:
    """A server that listens only after some seconds sleeps all the same, and its port wakes it."""
    late = "server.server_close(); time.sleep(3); server = Server(('::', 7), Ask)"
    one = sleepers.python(pods, late, scaledown="1s")
    one.reach("ASLEEP", timeout=30)
    assert one.ask("1") == 1


def test_logs_go_on(pods: Pods) -> None:
    """What the application wrote before a sleep and what it writes after the wake is in one log, in order."""
    one = sleepers.python(pods)
    for number in range(3):
        one.ask(f"print('line {number}', flush=True)")
        one.ask(f"print('error {number}', file=sys.stderr, flush=True)")
        one.sleep()
    one.ask("print('the end', flush=True)")
    cri.until(lambda: "the end" in one.container.logs())
    wanted = ["up", "line 0", "line 1", "line 2", "the end"]
    assert one.container.logs("stdout").splitlines() == wanted
    assert one.container.logs("stderr").splitlines() == ["error 0", "error 1", "error 2"]


def test_log_rotated_asleep(pods: Pods) -> None:
    """A log that kubelet rotates while the container sleeps gets the lines written after the wake."""
    one = sleepers.python(pods)
    one.sleep()
    path = Path(one.container.status().log_path)
    path.rename(path.with_suffix(".old"))
    one.container.reopen_log()
    one.ask("print('after', flush=True)")
    cri.until(lambda: one.container.logs() == "after\n")


def test_resources_can_be_changed_asleep(pods: Pods) -> None:
    """A memory limit changed while it sleeps is taken, and holds for the application once it is awake."""
    one = sleepers.python(pods, resources={"memory": 128 << 20})
    one.sleep()
    one.container.update(memory=256 << 20)
    assert one.ask("1") == 1
    one.reach("RUNNING")  # it answers before criu, whose child it is so far, has gone
    limit = memory_item("memory.max", "memory.limit_in_bytes")
    [path] = [group / limit for group in groups(one.container) if (group / limit).exists()]
    assert int(path.read_text()) == 256 << 20
    assert one.tree()[0] in map(int, (path.parent / "cgroup.procs").read_text().split())


def test_without_room_it_waits(pods: Pods) -> None:
    """Where the memory limit leaves no room the wake waits, says why, and comes when there is room."""
    one = sleepers.python(pods, "ballast = os.urandom(60 << 20)", resources={"memory": 256 << 20})
    talk = one.talk()
    talk.ask("1")
    one.sleep()
    one.container.update(memory=24 << 20)
    talk.send("len(ballast)")
    one.reach("WAKING")
    cri.until(lambda: "memory" in one.why(), 30)
    time.sleep(1)
    one.unharmed()
    one.container.update(memory=256 << 20)
    assert talk.answer() == 60 << 20
    talk.close()
    one.reach("RUNNING")


# --- the command line -------------------------------------------------------------------------------------------------


def test_commands_for_people(pods: Pods, zeropod: Run) -> None:
    """`zeropod list|why|sleep|wake|status` print what a person can read, and exit with 0."""
    one = sleepers.python(pods)
    pod = one.reference.rpartition("/")[0]
    name = pod.partition("/")[2]
    asleep = zeropod("sleep", pod)
    assert asleep.code == 0
    assert asleep.out.startswith(f"{one.reference} ASLEEP (")
    header, *rows = zeropod("list", pod).out.splitlines()
    assert header.split()[:4] == ["NAMESPACE", "POD", "CONTAINER", "STATE"]
    assert [row.split()[:4] for row in rows] == [["default", name, "python", "ASLEEP"]]
    assert rows[0].split()[5].endswith("MB")
    said = zeropod("why", one.reference).out
    assert "is asleep since" in said
    assert "tcp/7" in said
    assert zeropod("wake", one.reference).out.startswith(f"{one.reference} RUNNING (")
    assert "asked" in zeropod("list", name).out
    status = zeropod("status")
    assert status.code == 0
    assert "plugin: connected" in status.out
    assert "RUNNING" in status.out


def test_commands_for_programs(pods: Pods, zeropod: Run) -> None:
    """With `-o json` each command prints one JSON document with the same facts."""
    one = sleepers.python(pods)

    def said(*words: str) -> Any:
        done = zeropod(*words, "-o", "json")
        assert done.code == 0, done.err
        return json.loads(done.out)

    [asleep] = said("sleep", one.reference)
    assert (asleep["state"], asleep["cause"], asleep["sleeps"]) == ("ASLEEP", "asked", 1)
    assert asleep["image_bytes"] > 1 << 20
    assert sum(asleep["sleep_phases"].values()) == pytest.approx(asleep["sleep_ms"])
    [awake] = said("wake", one.reference)
    assert (awake["state"], awake["wake_cause"], awake["wakes"]) == ("RUNNING", "asked", 1)
    assert sum(awake["wake_phases"].values()) == pytest.approx(awake["wake_ms"])
    assert [found["id"] for found in said("list", one.reference)] == [one.container.id]
    [why] = said("why", one.reference)
    assert why["info"]["state"] == "RUNNING"
    assert one.reference in why["text"]
    status = said("status")
    assert status["plugin"] is True
    assert int(status["counts"]["RUNNING"]) >= 1
    assert all(sleepers.alive(int(pid)) for pid in status["helpers"].values())


def test_watch_tells_transitions(pods: Pods) -> None:
    """`zeropod watch` prints each transition of the pod it was asked for, as it happens."""
    other, one = sleepers.python(pods), sleepers.python(pods)
    # SIGINT is ignored in what a shell has started in the background.
    words = ["env", "--default-signal=INT", "zeropod", "watch", one.reference, "-o", "json"]
    watching = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    try:
        assert watching.stdout is not None
        time.sleep(1.0)  # it says nothing until something happens
        other.sleep()
        one.sleep()
        one.wake()
        lines = [json.loads(watching.stdout.readline()) for _ in range(4)]
        watching.send_signal(signal.SIGINT)
        assert watching.wait(10) == 0
    finally:
        watching.kill()
        watching.communicate()
    moves = [(line["before"], line["info"]["state"]) for line in lines]
    assert moves == [
        ("RUNNING", "SLEEPING"),
        ("SLEEPING", "ASLEEP"),
        ("ASLEEP", "WAKING"),
        ("WAKING", "RUNNING"),
    ]
    assert {line["info"]["id"] for line in lines} == {one.container.id}


def test_exit_codes(pods: Pods, zeropod: Run) -> None:
    """1: it could not be done and why; 2: wrong usage; 3: no such pod; 4: no daemon."""
    mute = pods(annotations={sleepers.SCALEDOWN: "1h"})
    mute.run("localhost/busybox:1", ["sleep", "1000"])
    reference = f"default/{mute.name}"
    cri.until(lambda: zeropod("list", reference).out.count("\n") == 2)
    refused = zeropod("sleep", reference)
    assert refused.code == 1
    assert "no port" in refused.err
    assert zeropod("sleep").code == 2
    assert zeropod("sleep", "a/b/c/d").code == 2
    assert zeropod("juggle").code == 2
    for verb in ("why", "sleep", "wake"):
        missing = zeropod(verb, "default/nobody")
        assert missing.code == 3
        assert "no such pod" in missing.err
    with sleepers.without_daemon():
        away = zeropod("list")
        assert away.code == 4
        assert "is the zeropod daemon running" in away.err


def test_only_root_may_ask() -> None:
    """The daemon's socket is root's alone."""
    assert Path("/run/zeropod/zeropod.sock").stat().st_mode & 0o777 == 0o600
    words = ["setpriv", "--reuid=1000", "--regid=1000", "--clear-groups", "zeropod", "status"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode == 4, done.stderr


def test_one_transition_one_line(pods: Pods) -> None:
    """The daemon's log has one line per transition, with pod, cause and milliseconds by phase."""
    log = Path("/var/log/node/daemon.log")
    mark = log.stat().st_size
    one = sleepers.python(pods)
    one.sleep()
    one.ask("1")
    one.reach("RUNNING")
    text = log.read_bytes()[mark:].decode()
    pod = one.reference.rpartition("/")[0]
    [asleep] = [line for line in text.splitlines() if "container.asleep" in line and pod in line]
    assert "cause=asked" in asleep
    assert "ms_criu=" in asleep
    [awake] = [
        line
        for line in text.splitlines()
        if "container.running" in line and pod in line and "tcp-connect" in line
    ]
    assert "ms_replay=" in awake


# --- what the kernel counts -------------------------------------------------------------------------------------------


def groups(container: cri.Container) -> list[Path]:
    """The container's cgroup in every hierarchy."""
    found = [root / container.pod.cgroup / container.id for root in cgroups.hierarchies()]
    return [path for path in found if path.exists()]


def memory_item(v2: str, v1: str) -> str:
    """The name of a file of the memory controller."""
    return v2 if cgroups.unified() else v1


def cgroup_pids(container: cri.Container) -> list[int]:
    """Every process in any of the container's cgroups."""
    found: set[int] = set()
    for group in groups(container):
        found |= set(map(int, (group / "cgroup.procs").read_text().split()))
    return sorted(found)


def resident(container: cri.Container) -> int:
    """Bytes of memory that the container's processes have."""
    pages = 0
    for pid in cgroup_pids(container):
        pages += int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.annotation("min-awake")
def test_it_stays_awake_for_a_while_after_a_wake(pods: Pods) -> None:
    """With min-awake it sleeps after its scaledown-duration at first, and not before that long after each wake."""
    annotations = {sleepers.SCALEDOWN: "1s", "zeropod.ctrox.dev/min-awake": "6s"}
    one = sleepers.python(pods, pod=pods(annotations=annotations))
    one.reach("ASLEEP")
    for wakes in (1, 2):
        asked, said = time.monotonic(), set()
        assert one.ask("1") == 1
        while one.state != "ASLEEP":
            said.add("min-awake is 6 s" in one.why())
        assert time.monotonic() - asked > 6
        assert True in said
        assert one.info()["wakes"] == wakes
