"""What looks for leaks after every node test finds them."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from node import leaks, sleepers

from bpf import maps, pins, syscall
from dev import cgroups, cri

Leak = Callable[[], AbstractContextManager[None]]


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is leaked here is left for good: waiting for it to end takes half a second, not ten."""
    monkeypatch.setattr(leaks, "PATIENCE", 0.05)


@contextlib.contextmanager
def folder(path: Path) -> Iterator[None]:
    """A directory that is nobody's."""
    path.mkdir()
    try:
        yield
    finally:
        path.rmdir()


@contextlib.contextmanager
def entry(name: str) -> Iterator[None]:
    """An entry of a pinned map that is nobody's."""
    where, opened = pins.Pins(leaks.SETTINGS.pin_root), list[int]()
    tables = maps.Maps(lambda table: opened.append(where.map(table)) or opened[-1])
    key, value = {
        "pods": (60000, maps.PodEntry()),
        "ports": (maps.PortKey(60000, "tcp", 80), 7),
        "conns": (maps.ConnKey(60000, "tcp", "10.0.0.1", 80, "10.0.0.2", 99), 7),
        "activity": (maps.PortKey(60000, "tcp", 80), maps.Times(1, 1)),
        "pod_names": (60000, maps.Owner("nobody")),
        "hold_names": (4000, maps.Owner("nobody")),
        "holds": (5, maps.HoldEntry(1, maps.MODE_SYNS, 0, 0)),
    }[name]
    table = getattr(tables, name)
    table.put(key, value)
    try:
        yield
    finally:
        if name == "holds":
            table.put(key, maps.HoldEntry(0, maps.MODE_OFF, 0, 0))
        else:
            table.drop(key)
        for fd in opened:
            os.close(fd)


@contextlib.contextmanager
def mount() -> Iterator[None]:
    """A mount that nobody undoes."""
    place = leaks.SETTINGS.run_dir / "leak"
    with folder(place):
        subprocess.run(["mount", "-t", "tmpfs", "leak", place], check=True)
        try:
            yield
        finally:
            subprocess.run(["umount", place], check=True)


@contextlib.contextmanager
def sysctl(name: str) -> Iterator[None]:
    """A setting of the node's own network namespace that is not set back."""
    path = Path("/proc/sys", name)
    before = path.read_text()
    path.write_text("1" if before.strip() == "0" else "0")
    try:
        yield
    finally:
        path.write_text(before)


@contextlib.contextmanager
def helper() -> Iterator[None]:
    """A process where criu runs."""
    with subprocess.Popen(["sleep", "60"]) as process:
        try:
            for root in cgroups.hierarchies():
                (root / leaks.SLICE / "cgroup.procs").write_text(str(process.pid))
            yield
        finally:
            process.kill()


LEAKS: dict[str, tuple[str, Leak]] = {
    "an image": ("images", lambda: folder(leaks.SETTINGS.state_dir / "images/leak")),
    "half an image": (
        "half-made images",
        lambda: folder(leaks.SETTINGS.state_dir / "staging/leak"),
    ),
    "a record": ("records", lambda: folder(leaks.SETTINGS.run_dir / "containers/leak")),
    "a cgroup": ("cgroups", lambda: folder(cgroups.hierarchies()[0] / leaks.SLICE / "leak")),
    "a pod's cgroup": ("cgroups", lambda: folder(cgroups.hierarchies()[0] / "kubepods/leak")),
    "a helper": ("helpers", helper),
    "a mount": ("mounts", mount),
    "a network namespace": ("network namespaces", lambda: folder(Path("/run/netns/leak"))),
    "a sysctl": ("sysctls", lambda: sysctl(leaks.SYSCTLS[0])),
    **{
        f"an entry of {name}": ("map entries", lambda name=name: entry(name))
        for name in ("pods", "ports", "conns", "activity", "pod_names", "hold_names", "holds")
    },
}


@pytest.mark.parametrize("what", LEAKS)
def test_a_leak_is_found(what: str, runtime: cri.Runtime, pod: cri.Pod) -> None:
    """Whatever is left after a test fails it, by the name of its kind."""
    kind, leak = LEAKS[what]
    found = pytest.raises(AssertionError, match=f"left behind: {{'{kind}'")
    with contextlib.ExitStack() as afterwards, found, leaks.nothing_left(runtime):
        afterwards.enter_context(leak())


def test_a_pod_is_found(runtime: cri.Runtime, pods: Callable[..., cri.Pod]) -> None:
    """A pod that is not removed is found by its sandbox, processes, namespaces and cgroups."""
    with pytest.raises(AssertionError) as caught, leaks.nothing_left(runtime):
        pods().run("localhost/busybox:1", ["sleep", "1000"])
    for kind in ("pods", "containers", "processes of pods", "network namespaces", "cgroups"):
        assert f"'{kind}'" in str(caught.value)


def test_what_a_process_holds_is_seen(tmp_path: Path) -> None:
    """A TAP's descriptor and a fanotify mark are seen, and no longer when they are gone."""
    me, file = os.getpid(), tmp_path / "file"
    file.touch()
    before = list(leaks.descriptors(me)), list(leaks.marks(me))
    tun = os.open("/dev/net/tun", os.O_RDWR)
    group = syscall.fanotify_init(syscall.FAN_CLASS_CONTENT, os.O_RDONLY)
    syscall.fanotify_mark(
        group, syscall.FAN_MARK_ADD, syscall.FAN_OPEN_PERM, -1, os.fsencode(file)
    )
    more = sorted(set(leaks.descriptors(me)) - set(before[0]))
    assert more == ["/dev/net/tun", "anon_inode:[fanotify]"]
    assert len(set(leaks.marks(me)) - set(before[1])) == 1
    os.close(group)
    os.close(tun)
    assert (list(leaks.descriptors(me)), list(leaks.marks(me))) == before


@pytest.mark.parametrize("asleep", [False, True])
def test_a_pod_that_slept_leaves_nothing(runtime: cri.Runtime, asleep: bool) -> None:
    """Removed awake or asleep, nothing of a managed pod is left, and there was something to leave."""
    annotations = {sleepers.SCALEDOWN: "1h"}
    with leaks.nothing_left(runtime):
        before = leaks.look(runtime)
        with cri.Pod("leaks", annotations=annotations, runtime=runtime) as pod:
            one = sleepers.redis(lambda **_: pod)
            one.sleep()
            if not asleep:
                one.wake()
            now = leaks.look(runtime)
        made = {kind for kind in now if now[kind] - before[kind]}
        assert {"known to the daemon", "records", "map entries"} <= made
        assert ({"images", "descriptors of the daemon", "marks of the daemon"} <= made) == asleep
