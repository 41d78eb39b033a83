"""The failure matrix of docs/failures.md, of memory and pids: a wake waits for them."""

from __future__ import annotations

import os
import signal
import subprocess

import pytest
from node import sleepers
from node.faults import Pods, flags, held, memory_limit
from node.scrapes import Series

from checkpointer import processes
from dev import cri

# --- room -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", ["container", "pod"])
def test_a_limit_that_leaves_no_room(pods: Pods, level: str) -> None:
    """A wake that does not fit is held, however long, with the limit in `why`, and answered once it fits."""
    one = sleepers.python(pods, "ballast = os.urandom(16 << 20)")
    limit = memory_limit(one)
    if level == "pod":
        limit = limit.parent.parent / limit.name
    with one.talk() as talk:
        talk.ask("memory.update(a=1)")
        one.sleep()
        before = limit.read_text().strip()
        limit.write_text(str(12 << 20))
        try:
            talk.send("memory['a'], len(ballast)")
            held(one, f"no-room-{level}")
            assert str(limit.parent) in one.why()
            one.unharmed()
        finally:
            # Version 1 does not take what it prints when there is none.
            limit.write_text("-1" if before.isdigit() and int(before) >= 1 << 60 else before)
        assert talk.answer() == [1, 16 << 20]
    assert one.reach("RUNNING")["kind"] == ""
    one.unharmed()


def test_a_node_without_memory(pods: Pods) -> None:
    """A wake that the node's memory has no room for is held, and answered by a daemon that keeps less."""
    one = sleepers.python(pods)
    with one.talk() as talk:
        talk.ask("memory.update(a=1)")
        one.sleep()
        with flags("--disk-reserve", "1%", "--memory-reserve", "1Ti"):
            talk.send("memory['a']")
            held(one, "no-room-node")
            assert "--memory-reserve keeps 1Ti" in one.why()
        assert talk.answer() == 1
    one.unharmed()


ASK_THE_OTHER = (
    "(lambda s: (s.sendall(b'len(ballast)\\n'), json.loads(s.makefile().readline()))[1])"
    "(socket.create_connection(('127.0.0.1', 8001), 20))"
)


def test_two_of_a_pod_that_fit_together(pods: Pods) -> None:
    """Below the limit of their pod one that asks the other as soon as it runs need not wait for its own wake to be over."""
    annotations = {sleepers.SCALEDOWN: "1h", "zeropod.ctrox.dev/lazy-restore": "false"}
    pod = pods(annotations=annotations, limits={"memory": 320 << 20})
    both = [
        sleepers.python(pods, "ballast = os.urandom(100 << 20)", pod=pod, port=port, name=name)
        for port, name in ((8000, "front"), (8001, "back"))
    ]
    for _ in range(3):
        for one in both:
            one.sleep()
        with sleepers.Talk(pod.ip, port=8000) as talk:
            assert talk.ask(ASK_THE_OTHER) == 100 << 20
        for one in both:
            one.reach("RUNNING")
            assert Series(one).value("zeropod_wakes_held_total", reason="no-room-pod") is None
            one.unharmed()


# --- pids -------------------------------------------------------------------------------------------------------------


def next_pid(one: sleepers.Sleeper, pid: int, then: str) -> subprocess.Popen[bytes]:
    """Let the next process of a container have a pid (kernel.ns_last_pid, sysctl(5)), then run something in a shell."""
    script = f"mount -t proc proc /mnt; echo {pid - 1} >/mnt/sys/kernel/ns_last_pid; {then}"
    inside = ["nsenter", "-t", str(one.pid), "-p", "unshare", "-m", "--propagation", "private"]
    return subprocess.Popen([*inside, "sh", "-c", script])


def own_pid(one: sleepers.Sleeper) -> int:
    """The application's pid in its container."""
    return processes.vpid(one.tree()[0])


def test_a_pid_that_is_taken(pods: Pods) -> None:
    """A process that has a pid of the application's holds the wake, is named in `why`, and costs no image."""
    one = sleepers.python(pods)
    with one.talk() as talk:
        talk.ask("memory.update(a=1)")
        pid = own_pid(one)
        one.sleep()
        with next_pid(one, pid, "sleep 1000") as taker:
            try:
                cri.until(
                    lambda: "sleep" in map(sleepers.comm, sleepers.descendants(taker.pid)), 10
                )
                talk.send("memory['a']")
                held(one, "pid-taken")
                assert f"(sleep) is pid {pid} in the container" in one.why()
            finally:
                for member in sleepers.descendants(taker.pid):
                    os.kill(member, signal.SIGKILL)
        assert talk.answer() == 1
    one.unharmed()


def test_an_exec_that_has_the_applications_pid(pods: Pods) -> None:
    """An exec that waits for the application and has its pid fails, for the wake would wait for it as well."""
    one = sleepers.python(pods)
    with one.talk() as talk:
        talk.ask("memory.update(a=1)")
        pid = own_pid(one)
        for attempt in range(5):
            one.sleep()
            next_pid(one, pid, "true").wait()
            result = one.container.exec(["true"])
            one.reach("RUNNING")
            assert talk.ask("memory['a']") == 1
            if result.code:
                break
            assert attempt < 4, "no exec had the pid"
        assert one.container.exec(["true"]).code == 0
    one.unharmed()
