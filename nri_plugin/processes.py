"""What /proc says of a container's first process, and of the supervisor's file on this host."""

from __future__ import annotations

import os
import pathlib
import time

from nri_plugin import refusals

_PROC = pathlib.Path("/proc")
_HOST_NETWORK = _PROC / "1" / "ns" / "net"  # we share the host's pid namespace


def is_supervisor(pid: int) -> bool:
    """Tell whether `pid` runs a supervisor; nothing but this proves that a container is managed.

    Only the path is compared: after an upgrade of the file the running one is " (deleted)" and
    has another inode. A container of ours (`injection.original`) has our mount at that path.
    """
    try:
        return (_PROC / str(pid) / "exe").readlink().is_relative_to(refusals.DESTINATION)
    except OSError:
        return False


def exists(pid: int) -> bool:
    """Tell whether a process `pid` exists; a zombie still does."""
    return (_PROC / str(pid)).exists()


def age(pid: int) -> float | None:
    """Return the seconds since `pid` started, None if it is gone."""
    try:
        stat = (_PROC / str(pid) / "stat").read_bytes()
    except OSError:
        return None
    # Field 22, counted from behind the name, which may hold anything.
    ticks = int(stat.rpartition(b")")[2].split()[19])
    return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")


def shares_host_network(spec: refusals.Spec) -> bool:
    """Tell whether the network namespace that `spec` joins is the host's.

    containerd names the sandbox's namespace by path even where that is the host's.
    """
    linux = spec.get("linux") or {}
    for namespace in linux.get("namespaces") or []:
        path = namespace.get("path")
        if namespace.get("type") == "network" and path:
            try:
                return pathlib.Path(path).samefile(_HOST_NETWORK)
            except OSError:
                return False  # without its sandbox the container will not start anyway
    return False


def missing_supervisor(container_dir: pathlib.Path) -> str:
    """Return why the supervisor cannot be mounted from `container_dir`, "" if it can.

    A spec that names a file that is not there is a container that cannot start.
    """
    path = container_dir / "init"
    if path.is_file() and os.access(path, os.X_OK):
        return ""
    return f"the supervisor {path} is missing or not executable on this node; run the installer"
