"""What a pod, a sleep or a wake makes on a node, by kind, so that a test can see that nothing of it is left.

Two looks are compared: what is there after a test and was not before belongs to nobody. Images of failed wakes are
kept for a while on purpose and are not looked at.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from node import sleepers

from bpf import maps, pins
from checkpointer import settings
from dev import cgroups, cri, patience
from ttrpc.errors import TtrpcError

SETTINGS = settings.Settings()

SLICE = "zeropod.slice"
"""Where criu, page daemons and zygotes run."""

PATIENCE = 30.0
"""Seconds until what is ending has ended."""

SYSCTLS = ("net/ipv4/conf/lo/route_localnet", "net/ipv4/conf/lo/accept_local", "net/mptcp/enabled")
"""What is changed in a pod's network namespace."""

TELLING = re.compile(r"/dev/net/tun|anon_inode:.*|(net|mnt|pid):\[|/var/lib/.*|/sys/.*")
"""Descriptors of the daemon that stand for something it holds. Its connections come and go."""

OWNED = ("1", "11")
"""Types of maps whose entries somebody has to remove: hash and lpm_trie (linux/bpf.h). Arrays have them all, and from an
LRU the kernel removes them."""

_Look = dict[str, Counter[str]]


@contextlib.contextmanager
def nothing_left(runtime: cri.Runtime) -> Iterator[None]:
    """After what is done in this context the node is as it was.

    Raises:
        AssertionError: it is not; says what is left, by kind.
    """
    if SETTINGS.run_dir.exists() and not Path("/run/node/hold/daemon").exists():
        # The test before may have ended the daemon: what it opens as it starts is no leak.
        patience.until(_daemon, PATIENCE)
        sleepers.ready()
    before = look(runtime)
    yield
    found: dict[str, list[str]] = {}

    def clean() -> bool:
        now = look(runtime)
        found.clear()
        for kind, things in now.items():
            more = things - before[kind]
            if more:
                found[kind] = sorted(more.elements())
        return not found

    try:
        patience.until(clean, PATIENCE, pause=0.05)
    except TimeoutError:
        raise AssertionError(f"left behind: {found}") from None


def look(runtime: cri.Runtime) -> _Look:
    """Everything there is, by kind; the same thing twice counts twice."""
    found = {
        "pods": [item.id for item in runtime.call("ListPodSandbox").items],
        "containers": [item.id for item in runtime.call("ListContainers").containers],
        "known to the daemon": _known(),
        "processes of pods": list(_of_pods()),
        "helpers": list(_helpers()),
        "mounts": [line.split()[4] for line in _lines("/proc/self/mountinfo")],
        "interfaces": [name for name in os.listdir("/sys/class/net") if name != "cni0"],
        "network namespaces": _names("/run/netns"),
        "cgroups": list(_cgroups()),
        "images": _names(SETTINGS.state_dir / "images"),
        "half-made images": _names(SETTINGS.state_dir / "staging"),
        "records": _names(SETTINGS.run_dir / "containers"),
        "pins": [str(path) for path in SETTINGS.pin_root.glob("*/*")],
        "map entries": list(_entries()),
        "descriptors of the daemon": list(descriptors(_daemon())),
        "marks of the daemon": list(marks(_daemon())),
        "sysctls": [f"{name} = {_read(f'/proc/sys/{name}')}" for name in SYSCTLS],
    }
    return {kind: Counter(things) for kind, things in found.items()}


def descriptors(pid: int) -> Iterator[str]:
    """What a process holds by descriptors, as far as it is telling."""
    for path in Path(f"/proc/{pid}/fd").glob("*"):
        with contextlib.suppress(OSError):
            if match := TELLING.match(os.readlink(path)):
                yield match.group()


def marks(pid: int) -> Iterator[str]:
    """The fanotify marks of a process."""
    for path in Path(f"/proc/{pid}/fdinfo").glob("*"):
        for line in _lines(path):
            if line.startswith(("fanotify mnt_id", "fanotify ino", "fanotify sdev")):
                yield line


def _known() -> list[str]:
    with contextlib.suppress(TtrpcError):
        return [f"{one['pod']}/{one['container']}" for one in sleepers.call("List")]
    return []


def _processes() -> Iterator[tuple[str, str, str]]:
    """Of each its pid, its name, and its lines of cgroups."""
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            group = _read(f"/proc/{entry}/cgroup")
            name = _read(f"/proc/{entry}/comm")
            yield entry, name, group


def _of_pods() -> Iterator[str]:
    for pid, name, group in _processes():
        # A process that begins changes its name; its cgroup tells whose it is.
        if "/kubepods/" in group:
            yield f"{pid} in {group.rpartition('/')[2]}"
        elif name.startswith("containerd-shim"):
            yield f"{pid} {name}"


def _helpers() -> Iterator[str]:
    """Processes where criu runs; not the daemon's zygotes, which are there for all pods."""
    listed: set[int] = set()
    with contextlib.suppress(TtrpcError):
        listed.update(sleepers.helpers().values())
    for pid, name, group in _processes():
        # Without a daemon there is nobody who could have one too many.
        if f"/{SLICE}" in group and int(pid) not in listed and (listed or name != "criu-zygote"):
            yield f"{pid} {name}"


def _cgroups() -> Iterator[str]:
    for root in cgroups.hierarchies():
        for below in ("kubepods", SLICE):
            for folder, _, _ in os.walk(root / below):
                # The kubelet's own is made by the first pod and stays.
                if folder != str(root / "kubepods"):
                    yield folder


def _entries() -> Iterator[str]:
    """Entries of the pinned maps; of the arrays, those that a hold could have."""
    where = pins.Pins(SETTINGS.pin_root)
    opened: list[int] = []
    try:
        tables = maps.Maps(lambda name: opened.append(where.map(name)) or opened[-1])
        for name, table in vars(tables).items():
            if name in ("pod_names", "hold_names"):
                yield from (f"{name} {owner.text}" for _, owner in table.items())
            elif _type(table.fd) in OWNED:
                yield from (f"{name} {key}" for key in table)
        for number in range(64):
            # The lowest free one is always taken.
            entry = tables.holds.get(number)
            if entry and entry.mode != maps.MODE_OFF:
                yield f"holds {number} {entry}"
    except FileNotFoundError:
        # A daemon that is being started for the first time has not pinned them yet.
        return
    finally:
        for fd in opened:
            os.close(fd)


def _type(fd: int) -> str:
    return _read(f"/proc/self/fdinfo/{fd}").partition("map_type:")[2].split()[0]


def _daemon() -> int:
    return int(_read("/run/node/daemon.pid") or 0)


def _names(folder: str | Path) -> list[str]:
    try:
        return os.listdir(folder)
    except FileNotFoundError:
        return []


def _lines(path: str | Path) -> list[str]:
    return _read(path).splitlines()


def _read(path: str | Path) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as stream:
            return stream.read().strip()
    except OSError:
        return ""
