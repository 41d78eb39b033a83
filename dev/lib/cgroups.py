"""The node's cgroups, seen from the host: one in every hierarchy of cgroup v1, or the one of v2."""

from __future__ import annotations

import logging
import os
import signal
import time
from pathlib import Path
from typing import Dict, List

from dev.lib.errors import DevError

log = logging.getLogger("dev")

ROOT = Path("/sys/fs/cgroup")

#: Processes started by `dev/node exec` and the node's PID 1. On cgroup v2 only leaves may hold any.
LEAF = "init"

#: What pods' limits need.
CONTROLLERS = ("cpu", "memory", "pids")


def plan(name: str) -> List[Path]:
    """Where the node's cgroups are to be, by what /proc says of ourselves."""
    mounts = _mounts()
    found = []
    for line in Path("/proc/self/cgroup").read_text(encoding="ascii").splitlines():
        _, controllers, path = line.split(":", 2)
        mount = mounts.get(controllers.replace("name=", ""))
        if mount:
            above = Path(mount + path.rstrip("/"))
            if _unified():
                above = _passing_on(above, Path(mount))
            found.append(above / ("zeropod-dev-" + name))
    if not found:
        raise DevError("no cgroup hierarchy is mounted below %s" % ROOT)
    return found


def create(paths: List[Path]) -> List[str]:
    """Makes them usable: v1's cpuset filled in, v2's controllers passed down.

    Returns:
        The controllers that had to be passed on by the cgroup above; `restore` takes them back.
    """
    added: List[str] = []
    for path in paths:
        if _unified():
            added = _pass_on(path.parent)
        path.mkdir(exist_ok=True)
        fill_cpuset(path)
        (path / LEAF).mkdir(exist_ok=True)
        fill_cpuset(path / LEAF)
    return added


def restore(paths: List[Path], added: List[str]) -> None:
    """Takes back what `create` changed above, unless another node is there or somebody uses it."""
    for path in paths:
        if added and not any(path.parent.glob("zeropod-dev-*")):
            for controller in added:
                try:
                    _write(path.parent / "cgroup.subtree_control", "-" + controller)
                except OSError as error:
                    log.debug("%s stays: %s", controller, error)


def _unified() -> bool:
    return (ROOT / "cgroup.controllers").exists()


def _passing_on(own: Path, root: Path) -> Path:
    """The nearest cgroup v2 above us whose children have what containers need.

    Ours will not do: a cgroup with processes in it passes no controller down, unless it is the root.
    """
    for place in (own, *own.parents):
        if set(CONTROLLERS) <= set(_words(place / "cgroup.subtree_control")):
            return place
        if place == root:
            break
    return root


def _pass_on(place: Path) -> List[str]:
    added = []
    lacking = set(CONTROLLERS) - set(_words(place / "cgroup.subtree_control"))
    for controller in sorted(lacking & set(_words(place / "cgroup.controllers"))):
        try:
            _write(place / "cgroup.subtree_control", "+" + controller)
            added.append(controller)
        except OSError as error:
            # In a container whose root cgroup holds processes there is no way to have it.
            log.warning("no %s limits for pods: %s", controller, error)
    return added


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="ascii")


def _words(path: Path) -> List[str]:
    try:
        return path.read_text(encoding="ascii").split()
    except OSError:
        return []


def fill_cpuset(path: Path) -> None:
    """Cgroup v1: a new cpuset has neither processors nor memory and takes no process."""
    for name in ("cpuset.cpus", "cpuset.mems"):
        if (path / "cpuset.cpu_exclusive").exists() and not (path / name).read_text(
            encoding="ascii"
        ).strip():
            (path / name).write_text(
                (path.parent / name).read_text(encoding="ascii"), encoding="ascii"
            )


def remove(paths: List[Path], timeout: float = 10.0) -> List[Path]:
    """Kills what is left in them and removes them; returns what could not be removed."""
    deadline = time.monotonic() + timeout
    while True:
        for path in paths:
            for folder, _, _ in os.walk(path, topdown=False):
                _kill(Path(folder))
                try:
                    os.rmdir(folder)
                except OSError:
                    # Still busy; looked at again below.
                    continue
        left = [path for path in paths if path.exists()]
        if not left or time.monotonic() > deadline:
            return left
        time.sleep(0.02)


def _kill(path: Path) -> None:
    try:
        pids = (path / "cgroup.procs").read_text(encoding="ascii").split()
    except OSError:
        return
    for pid in pids:
        # 0 would be our own group: a process of a foreign pid namespace reads so.
        if int(pid) > 1:
            try:
                os.kill(int(pid), signal.SIGKILL)
            except ProcessLookupError:
                continue


def _mounts() -> Dict[str, str]:
    """Mount points by hierarchy: a controller's set as /proc/self/cgroup spells it, "" for v2."""
    found: Dict[str, str] = {}
    for line in Path("/proc/mounts").read_text(encoding="utf-8").splitlines():
        _, where, kind, options = line.split()[:4]
        if not where.startswith(str(ROOT)):
            continue
        if kind == "cgroup2":
            found.setdefault("", where)
        elif kind == "cgroup":
            # A hierarchy's controllers come last in its options; its folder carries their names.
            found.setdefault(Path(where).name, where)
            for option in options.split(","):
                if option.startswith("name="):
                    found.setdefault(option[5:], where)
    return found
