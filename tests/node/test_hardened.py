"""A pod as a strict cluster wants it, on cgroup v2: not root, no capability, no way to get one, and limits all around."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from node import sleepers
from node.sleepers import Sleeper, Talk

from dev import cgroups, cri

pytestmark = pytest.mark.vm

Pods = Callable[..., cri.Pod]

LAZY = "zeropod.ctrox.dev/lazy-restore"

PORT = 7007
"""One that somebody without capabilities may listen on."""

SECURITY = {
    "run_as_user": 1000,
    "run_as_group": 1000,
    "supplemental_groups": [2000, 2001],
    "drop_all": True,
    "no_new_privs": True,
    "readonly_rootfs": True,
}
"""Seccomp is the runtime's default unless it is taken away."""

TENTH = 10000
"""A CPU limit of 100m, in microseconds of each 100 ms."""

MEMORY = 128 << 20

OOM_GROUP = {"memory.oom.group": "1"}
"""What the kubelet asks for on cgroup v2: who runs out of memory takes the whole container along."""

RIGHTS = ("Uid", "Gid", "Groups", "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp",
          "Seccomp_filters")  # fmt: skip

LIMITS = ("memory.max", "memory.oom.group", "cpu.max", "cpu.weight", "pids.max")

SETUP = """
import hashlib
ballast = os.urandom(SIZE << 20)
def digest():
    return hashlib.md5(ballast, usedforsecurity=False).hexdigest()
def wait():
    threading.Event().wait()
for number in range(2):
    threading.Thread(target=wait, daemon=True).start()
"""


def hardened(pods: Pods, mebibytes: int = 20, *, lazy: str = "auto") -> Sleeper:
    """A hardened container in a pod with limits of its own; its CPU limits hold from when it has started."""
    annotations = {sleepers.SCALEDOWN: "1h", LAZY: lazy}
    pod = pods(annotations=annotations, limits={"cpu_quota": 10 * TENTH, "memory": MEMORY})
    one = sleepers.python(
        pods,
        SETUP.replace("SIZE", str(mebibytes)),
        pod=pod,
        port=PORT,
        resources={"memory": MEMORY, "oom_score_adj": 1000, "unified": OOM_GROUP},
        security=SECURITY,
    )
    # python takes minutes to start on a tenth of an emulated processor.
    one.container.update(cpu_quota=TENTH)
    (cgroups.ROOT / pod.cgroup / "cpu.max").write_text(f"{TENTH} 100000")
    return one


def group(one: Sleeper) -> Path:
    """The container's cgroup; its parent is the pod's."""
    return cgroups.ROOT / one.container.pod.cgroup / one.container.id


def number(path: Path, name: str = "") -> int:
    """What a file of a cgroup says, all of it or on the line of this name."""
    text = path.read_text()
    return int(text.partition(f"{name} ")[2].split()[0] if name else text)


def rights(pid: int) -> dict[str, str]:
    """What each thread of a process may do, where it is and what bounds it."""
    found = {}
    tasks = sorted(Path(f"/proc/{pid}/task").iterdir(), key=lambda path: int(path.name))
    for thread, task in enumerate(tasks):
        status = dict(line.split(":", 1) for line in (task / "status").read_text().splitlines())
        files = ("limits", "oom_score_adj", "cgroup", "attr/current", "comm")
        things = {name: status[name].strip() for name in RIGHTS}
        things |= {name: (task / name).read_text() for name in files}
        things |= {name: os.readlink(task / name) for name in ("root", "cwd")}
        found |= {f"{name} of thread {thread}": value for name, value in things.items()}
    return found


def limits(one: Sleeper) -> dict[str, str]:
    """The limits of the container and of its pod."""
    places = {"container": group(one), "pod": group(one).parent}
    return {
        f"{place} {name}": (folder / name).read_text()
        for place, folder in places.items()
        for name in LIMITS
    }


def changes(before: dict[str, str], after: dict[str, str]) -> dict[str, tuple[str, str]]:
    """What is not as it was: the old and the new."""
    found = {name: (before.get(name, ""), after.get(name, "")) for name in before | after}
    return {name: both for name, both in found.items() if both[0] != both[1]}


def test_a_hardened_pod_through_five_sleeps(pods: Pods) -> None:
    """Through five sleeps it keeps memory, connection, identity, seccomp and limits, of every thread."""
    one = hardened(pods)
    with Talk(one.ip, port=PORT) as kept:
        digest = kept.ask("digest()")
        before = rights(one.tree()[0]) | limits(one)
        for thread in range(4):
            assert before[f"Uid of thread {thread}"].split() == ["1000"] * 4
            assert before[f"CapBnd of thread {thread}"] == "0" * 16
            assert before[f"NoNewPrivs of thread {thread}"] == "1"
            assert before[f"Seccomp of thread {thread}"] == "2"
        for cycle in range(5):
            kept.ask(f"memory.update(cycle={cycle})")
            one.sleep()
            assert one.tree() == []
            assert kept.ask("memory['cycle']") == cycle
            one.reach("RUNNING")
            assert changes(before, rights(one.tree()[0]) | limits(one)) == {}
        assert kept.ask("digest()") == digest
        assert "Read-only" in kept.ask("open('/new', 'w')")
    one.unharmed()


@pytest.mark.smoke
def test_a_hardened_redis(pods: Pods) -> None:
    """A hardened redis is woken by a new connection and by one that was open, and has its keys."""
    security = {**SECURITY, "run_as_user": 999, "run_as_group": 999}
    one = sleepers.redis(pods, security=security, resources={"memory": MEMORY, "cpu_quota": TENTH})
    assert sleepers.command(one.ip, "DEBUG", "POPULATE", "1000", "key", "100") == "+OK"
    digest = sleepers.command(one.ip, "DEBUG", "DIGEST")
    before = rights(one.tree()[0])
    with Talk(one.ip, port=6379) as kept:
        for _ in range(2):
            one.sleep()
            assert sleepers.command(one.ip, "DEBUG", "DIGEST") == digest
            one.reach("RUNNING")
            one.sleep()
            kept.send("PING")
            assert kept.read() == "+PONG"
            one.reach("RUNNING")
            assert changes(before, rights(one.tree()[0])) == {}
    one.unharmed()


@pytest.mark.parametrize("lazy", ["false", "true"])
def test_memory_is_the_containers(pods: Pods, lazy: str) -> None:
    """Asleep its memory is free, and after a wake it is charged to the container again, not to us."""
    size = 40 << 20
    one = hardened(pods, 40, lazy=lazy)
    current = group(one) / "memory.current"
    ours = [cgroups.ROOT / name / "memory.stat" for name in ("zeropod.slice", "zeropod-daemon")]
    assert number(current) > size
    one.sleep()
    assert number(current) < 8 << 20
    before = sum(number(path, "anon") for path in ours)
    with Talk(one.ip, port=PORT) as talk:
        talk.ask("digest()")
    one.reach("RUNNING")
    cri.until(lambda: number(current) > size)
    assert number(group(one) / "memory.stat", "anon") > size
    assert sum(number(path, "anon") for path in ours) - before < 8 << 20


def test_a_wake_is_not_throttled(pods: Pods) -> None:
    """The CPU limits of container and pod do not slow a wake down, and throttle the application after it."""
    one = hardened(pods, 40, lazy="false")
    before = limits(one)
    one.sleep()
    stats = [group(one) / "cpu.stat", group(one).parent / "cpu.stat"]
    throttled = [number(path, "nr_throttled") for path in stats]
    one.wake()
    # What the application does when it is back is throttled: it needs a moment for it.
    assert [
        number(path, "nr_throttled") - old for path, old in zip(stats, throttled, strict=True)
    ] <= [3, 3]
    assert limits(one) == before
    with Talk(one.ip, port=PORT, timeout=60) as talk:
        talk.ask("[number for number in range(1000000)] and 1")
    assert number(stats[0], "nr_throttled") > throttled[0] + 3


def test_no_room_kills_nobody(pods: Pods) -> None:
    """With memory.oom.group a restore that does not fit is not begun: the wake waits until there is room."""
    one = hardened(pods, 60)
    with Talk(one.ip, port=PORT, timeout=60) as kept:
        digest = kept.ask("digest()")
        one.sleep()
        one.container.update(memory=24 << 20)
        kept.send("digest()")
        one.reach("WAKING")
        cri.until(lambda: "memory" in one.why(), 30)
        one.unharmed()
        assert number(group(one) / "memory.events", "oom_kill") == 0
        one.container.update(memory=MEMORY)
        assert kept.answer() == digest
    assert number(group(one) / "memory.oom.group") == 1
    one.unharmed()


def test_out_of_memory_is_reported(pods: Pods) -> None:
    """An application that runs out of memory after a wake ends its container as it would have before: OOMKilled."""
    one = hardened(pods)
    one.sleep()
    with Talk(one.ip, port=PORT) as talk:
        talk.ask("1")
        one.reach("RUNNING")
        talk.send("len(bytearray(os.urandom(1 << 20) * 300))")
        status = one.container.wait("exited", 60)
    assert (status.exit_code, status.reason) == (137, "OOMKilled")
