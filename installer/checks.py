"""Can this node do it: each check says what was found and, if it failed, what to do about it."""

from __future__ import annotations

import dataclasses
import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

from installer import layouts, payload, trial
from installer.errors import InstallError
from installer.host import Host
from installer.journal import Journal
from installer.layouts import Layout

KERNEL = (5, 10)
"""clone3 into a cgroup (5.7), pidfd_getfd (5.6) and the BPF helpers are there; tried are 6.1, 6.12 and 6.18."""

CONTAINERD = (1, 7)
"""The first with NRI's protocol of today (0.6)."""

FREE = 512 << 20
"""Bytes that the images' file system should have: some sleeping containers."""

BPFFS = "/sys/fs/bpf"


@dataclasses.dataclass(frozen=True)
class Check:
    """One finding.

    Attributes:
        name: A word.
        ok: Whether it is as it should be.
        found: What was seen.
        remedy: What to do if it is not; "" if it is.
        needed: Whether nothing works without it.
    """

    name: str
    ok: bool
    found: str
    remedy: str = ""
    needed: bool = True


def run(host: Host, layout: Layout, source: Path) -> list[Check]:
    """Look at everything that an installation needs; changes nothing on the node.

    Args:
        host: The node.
        layout: Its layout.
        source: Directory with the payload, whose criu is tried.
    """
    return [
        kernel(os.uname().release),
        _containerd(host, layout),
        _cgroups(host),
        _bpffs(host),
        _tun(host),
        _userfaultfd(host),
        _space(host),
        criu(source / payload.BUNDLE),
    ]


def prepare(host: Host, journal: Journal) -> list[str]:
    """Do what a remedy would say where it is harmless: mount bpffs, load tun; return what was done.

    What does not work is left to the checks, which say what to do.
    """
    done = []
    for what, argv in missing(host):
        if argv[-1] == BPFFS:
            journal.mounting(BPFFS)
        if _worked(host, *argv):
            done.append(what)
    return done


def missing(host: Host) -> list[tuple[str, list[str]]]:
    """Return what `prepare` is to do, for people, and how."""
    found = []
    if not host.mounted(BPFFS, "bpf") and host.exists(BPFFS):
        # In the node's own mount namespace: for this a container needs the node's PID namespace.
        inside = ["nsenter", "-t", "1", "-m"] if host.root != Path("/") else []
        found.append((f"mounted {BPFFS}", [*inside, "mount", "-t", "bpf", "bpf", BPFFS]))
    if not host.exists("/dev/net/tun"):
        found.append(("loaded the module tun", ["modprobe", "tun"]))
    return found


def _worked(host: Host, *argv: str) -> bool:
    try:
        return host.run(*argv).returncode == 0
    except InstallError:
        return False


def nri(host: Host, path: str) -> Check:
    """See whether somebody answers where NRI listens."""
    ok = host.answers(path)
    return Check(
        "nri",
        ok,
        f"answers at {path}" if ok else f"nobody answers at {path}",
        "" if ok else "`install` enables it in containerd's configuration",
    )


def failed(found: Sequence[Check]) -> list[Check]:
    """Return the checks without which nothing works."""
    return [one for one in found if one.needed and not one.ok]


def kernel(release: str) -> Check:
    """Judge a kernel by uname's release."""
    found = re.match(r"(\d+)\.(\d+)", release)
    ok = found is not None and (int(found[1]), int(found[2])) >= KERNEL
    least = ".".join(map(str, KERNEL))
    return Check(
        "kernel", ok, release, "" if ok else f"run a kernel of {least} or later on this node"
    )


def _containerd(host: Host, layout: Layout) -> Check:
    version = layouts.version(host, layout)
    if version == (0, 0):
        return Check("containerd", ok=True, found=f"{layout.name}; its version was not asked")
    shown = ".".join(map(str, version))
    ok = version >= CONTAINERD
    return Check(
        "containerd",
        ok,
        shown,
        "" if ok else "upgrade containerd to 1.7 or later: older ones have no NRI",
    )


def _cgroups(host: Host) -> Check:
    if host.exists("/sys/fs/cgroup/cgroup.controllers"):
        return Check("cgroup", ok=True, found="v2")
    ok = host.exists("/sys/fs/cgroup/memory")
    return Check(
        "cgroup",
        ok,
        "v1" if ok else "none",
        "" if ok else "mount the memory controller, or boot with cgroup v2",
    )


def _bpffs(host: Host) -> Check:
    ok = host.mounted(BPFFS, "bpf")
    return Check(
        "bpffs",
        ok,
        "mounted" if ok else "not mounted",
        "" if ok else f"run on the node: mount -t bpf bpf {BPFFS}",
    )


def _tun(host: Host) -> Check:
    ok = host.exists("/dev/net/tun")
    return Check(
        "tun",
        ok,
        "there" if ok else "no /dev/net/tun",
        "" if ok else "run on the node: modprobe tun",
    )


def _userfaultfd(host: Host) -> Check:
    there = host.exists("/proc/sys/vm/unprivileged_userfaultfd")
    found = (
        "there"
        if there
        else "not in this kernel: large containers wake slower, with all of their memory"
    )
    return Check("userfaultfd", ok=True, found=found)


def _space(host: Host) -> Check:
    path = host.real("/var/lib")
    free = shutil.disk_usage(path if path.is_dir() else host.root).free
    ok = free >= FREE
    return Check(
        "disk",
        ok,
        f"{free >> 20} MB free below /var/lib",
        "" if ok else "free some: images of sleeping containers go there",
        needed=False,  # with less, less sleeps
    )


def criu(bundle: Path) -> Check:
    """Freeze and thaw a small process of ours with a criu bundle: what the node is to do, for real."""
    try:
        took = trial.run(bundle)
    except InstallError as error:
        return Check("criu", ok=False, found=error.problem, remedy=error.remedy)
    return Check("criu", ok=True, found=f"froze and thawed a process in {1e3 * took:.0f} ms")
