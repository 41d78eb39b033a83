"""Cgroups of containers and of our helpers, on version 1, version 2 and the hybrid of both.

Restored memory must be charged to the container from the first page, so a worker joins the memory controller before
it works. On version 1 the hierarchies that would slow it down are joined after the wake.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from checkpointer import processes
from checkpointer.errors import ZygoteError

SLICE = "zeropod.slice"
"""Host cgroup of what outlives the daemon."""

# What would slow down or hinder criu; a restored tree joins these hierarchies of version 1 when it runs.
_LATER = frozenset({"cpu", "cpuacct", "blkio", "devices", "pids"})
_UNLIMITED = 1 << 60  # v1 prints "no limit" as a number near 2**63


@dataclasses.dataclass(frozen=True, slots=True)
class Cgroups:
    """Where a process is.

    Attributes:
        v1: Directory per hierarchy of version 1, by its controllers ("memory", "cpu,cpuacct", "name=systemd").
        v2: Directory in the version 2 hierarchy, None where there is none.
    """

    v1: dict[str, Path]
    v2: Path | None

    def controller(self, name: str) -> Path | None:
        """Return the directory where the controller `name` governs: version 1 if it is there."""
        for controllers, path in self.v1.items():
            if name in controllers.split(","):
                return path
        return self.v2

    def all(self) -> dict[str, Path]:
        """Return every directory by hierarchy; "" is version 2, as in /proc/PID/cgroup."""
        return dict(self.v1) if self.v2 is None else {**self.v1, "": self.v2}

    def plain(self) -> dict[str, str]:
        """Return the same as text, for a manifest."""
        return {name: str(path) for name, path in self.all().items()}


@functools.cache
def _mounts() -> dict[str, tuple[Path, str]]:
    """Return mount point and mounted root of every hierarchy, by name as in /proc/PID/cgroup."""
    found: dict[str, tuple[Path, str]] = {}
    names = _hierarchies()
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        root, point = before.split()[3:5]
        kind, _, options = after.split(maxsplit=2)
        if kind == "cgroup2":
            found.setdefault("", (Path(point), root))
        elif kind == "cgroup":
            given = set(options.split(","))
            for name in names:
                if name and set(name.split(",")) <= given:
                    found.setdefault(name, (Path(point), root))
    return found


def _hierarchies() -> list[str]:
    lines = Path("/proc/self/cgroup").read_text().splitlines()
    return [line.split(":", 2)[1] for line in lines]


def below(path: str, root: str) -> str:
    """Return a cgroup's path relative to the root of the mount through which we see it."""
    if root == "/":
        return path.lstrip("/")
    if path == root:
        return ""
    if path.startswith(root + "/"):
        return path[len(root) + 1 :]
    raise ZygoteError(f"cgroup {path} is outside of what is mounted here ({root})")


def of(pid: int) -> Cgroups:
    """Return the cgroups of a process as directories.

    Raises:
        ProcessLookupError: it has gone.
        ZygoteError: a cgroup is not visible from here.
    """
    try:
        text = Path(f"/proc/{pid}/cgroup").read_text()
    except FileNotFoundError as error:
        raise ProcessLookupError(error.errno, "no such process") from error
    v1: dict[str, Path] = {}
    v2 = None
    for line in text.splitlines():
        _, name, path = line.split(":", 2)
        if name not in _mounts():
            continue
        point, root = _mounts()[name]
        directory = point / below(path, root)
        if name:
            v1[name] = directory
        else:
            v2 = directory
    return Cgroups(v1, v2)


@dataclasses.dataclass(frozen=True, slots=True)
class Slice:
    """The host cgroup of our helpers, which must outlive the daemon's own."""

    directories: tuple[Path, ...]

    @classmethod
    def ensure(cls, name: str) -> Slice:
        """Make the cgroup at the top of every hierarchy that is mounted."""
        made = []
        for hierarchy, (point, _) in _mounts().items():
            directory = point / name
            directory.mkdir(exist_ok=True)
            if "cpuset" in hierarchy.split(","):
                _copy_cpuset(point, directory)
            made.append(directory)
        return cls(tuple(made))

    def adopt(self, pid: int) -> None:
        """Move a process in."""
        for directory in self.directories:
            (directory / "cgroup.procs").write_text(str(pid))


def _copy_cpuset(parent: Path, child: Path) -> None:
    """Give a version 1 cpuset its parent's CPUs and nodes: a new one has none and takes no task."""
    for name in ("cpuset.cpus", "cpuset.mems"):
        if (child / name).exists() and not (child / name).read_text().strip():
            (child / name).write_text((parent / name).read_text())


def place(pids: Iterable[int], wanted: Cgroups) -> None:
    """Move processes into the version 1 hierarchies that they are not in yet."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            present = of(pid).v1
            for name, directory in wanted.v1.items():
                if present.get(name) != directory:
                    (directory / "cgroup.procs").write_text(str(pid))


def misplaced(pids: Iterable[int], wanted: Cgroups) -> str | None:
    """Say which process is in another cgroup than it should be: it would run outside its limits."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            present = of(pid).all()
            for name, directory in wanted.all().items():
                if present.get(name) != directory and processes.alive(pid):
                    return f"process {pid} is in {present.get(name)} instead of {directory}"
    return None


def number(path: Path) -> int | None:
    """Read a limit or a count; None when there is no such file or no limit."""
    try:
        text = path.read_text().strip()
    except OSError:
        return None
    if text == "max" or not text.lstrip("-").isdigit() or int(text) >= _UNLIMITED:
        return None
    return int(text)


def ancestors(directory: Path | None) -> Iterator[Path]:
    """Iterate over a cgroup and those above it, without the root, which has no limits."""
    point = mount_of(directory) if directory is not None else None
    while directory is not None and directory not in (point, directory.parent):
        yield directory
        directory = directory.parent


def reclaimable(directory: Path) -> int:
    """Return the bytes of page cache that make way by themselves."""
    keys = {"total_inactive_file", "total_active_file"}  # version 1
    if not (directory / "memory.usage_in_bytes").exists():
        keys = {"inactive_file", "active_file"}
    lines = (line.split() for line in (directory / "memory.stat").read_text().splitlines())
    return sum(int(value) for key, value in lines if key in keys)


def inhabited(directory: Path) -> int:
    """Count the cgroups right below one that have processes of their own."""
    return sum(bool(path.read_text()) for path in directory.glob("*/cgroup.procs"))


def charged(pid: int) -> int:
    """Return the bytes that the memory cgroup of a process is charged, without page cache that makes way by itself."""
    directory = of(pid).controller("memory")
    if directory is None:
        return 0
    used = number(directory / "memory.usage_in_bytes") or number(directory / "memory.current")
    return max(0, (used or 0) - reclaimable(directory)) if used else 0


def mounts() -> list[Path]:
    """Return where hierarchies are mounted."""
    return [point for point, _ in _mounts().values()]


def mount_of(directory: Path) -> Path:
    """Return where the hierarchy of a cgroup is mounted."""
    return next(
        (point for point, _ in _mounts().values() if directory.is_relative_to(point)), Path("/")
    )


@contextlib.contextmanager
def joining(groups: Cgroups) -> Iterator[list[tuple[str, int]]]:
    """Open what a worker needs to start in the container's cgroups, as (kind, descriptor) of a zygote request.

    Version 1 by `tasks`, not `cgroup.procs`: a thread that moves itself needs no cgroup_threadgroup_rwsem (Linux 5.4,
    9a3284fad42f), for which the other way waits an RCU grace period, 3 to 15 ms.
    """
    fds: list[tuple[str, int]] = []
    try:
        if groups.v2 is not None:
            fds.append(("g", os.open(groups.v2, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)))
        for controllers, directory in groups.v1.items():
            if _LATER.isdisjoint(controllers.split(",")):
                fds.append(("c", os.open(directory / "tasks", os.O_WRONLY | os.O_CLOEXEC)))
        yield fds
    finally:
        for _, fd in fds:
            os.close(fd)
