"""Can this node do it: each check says what was found and, if it failed, what to do about it."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from installer import layouts, payload
from installer.errors import InstallError
from installer.host import Host
from installer.layouts import Layout

KERNEL = (5, 10)
"""clone3 into a cgroup (5.7), pidfd_getfd (5.6) and the BPF helpers are there; tried are 6.1, 6.12 and 6.18."""

CONTAINERD = (1, 7)
"""The first with NRI's protocol of today (0.6)."""

FREE = 512 << 20
"""Bytes that the images' file system should have: some sleeping containers."""

CRIU_SECONDS = 30.0

REMEDY = "run with the capabilities of the manifests, on a kernel that docs/install.md names"


@dataclasses.dataclass(frozen=True)
class Check:
    """One finding.

    Attributes:
        name: A word.
        ok: Whether it is as it should be.
        found: What was seen.
        remedy: What to do if it is not; "" if it is.
    """

    name: str
    ok: bool
    found: str
    remedy: str = ""


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
    mounts = host.read("/proc/mounts") or ""
    ok = any(line.split()[1:3] == ["/sys/fs/bpf", "bpf"] for line in mounts.splitlines())
    return Check(
        "bpffs",
        ok,
        "mounted" if ok else "not mounted",
        "" if ok else "run on the node: mount -t bpf bpf /sys/fs/bpf",
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
    )


def criu(bundle: Path) -> Check:
    """Freeze and thaw a small process of ours with a criu bundle: what the node is to do, for real."""
    try:
        with tempfile.TemporaryDirectory(prefix="zeropod-check-") as scratch, _sleeper() as child:
            pid = child.pid
            started = time.monotonic()
            _criu(bundle, scratch, "dump", "--tree", str(pid))
            child.wait(CRIU_SECONDS)  # as a zombie it would keep the pid
            _criu(bundle, scratch, "restore", "--restore-detached")
            if not _alive(pid):
                raise InstallError("criu restored a process that does not run", "report this")
            took = 1e3 * (time.monotonic() - started)
    except (InstallError, OSError, subprocess.TimeoutExpired) as error:
        return Check("criu", ok=False, found=getattr(error, "problem", str(error)), remedy=REMEDY)
    return Check("criu", ok=True, found=f"froze and thawed a process in {took:.0f} ms")


@contextlib.contextmanager
def _sleeper() -> Iterator[subprocess.Popen[bytes]]:
    """A process with a session of its own and nothing open. It is ended afterwards, restored or not."""
    program = [sys.executable, "-I", "-S", "-c", "import signal; signal.pause()"]
    null = subprocess.DEVNULL
    child = subprocess.Popen(
        program, stdin=null, stdout=null, stderr=null, start_new_session=True, cwd="/", env={}
    )
    try:
        _until(lambda: Path(f"/proc/{child.pid}/wchan").exists() and _sleeps(child.pid))
        yield child
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child.pid, signal.SIGKILL)
        child.wait()


def _sleeps(pid: int) -> bool:
    """Say whether a process has come to rest in its pause."""
    words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return words[0] == "S" and b"pause" in Path(f"/proc/{pid}/cmdline").read_bytes()


def _alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state not in "ZX"


def _until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + CRIU_SECONDS
    while not true():
        if time.monotonic() > deadline:
            raise InstallError("a process did not come to rest", "look at the load of the node")
        time.sleep(0.01)


def _criu(bundle: Path, scratch: str, *words: str) -> None:
    log = Path(scratch) / f"{words[0]}.log"
    argv = [
        str(bundle / "ld.so"), "--inhibit-cache", "--library-path", str(bundle / "lib"), str(bundle / "criu"),
        "--no-default-config", *words, "-D", scratch, "-o", str(log), "-v2", "--manage-cgroups=ignore",
    ]  # fmt: skip
    try:
        result = subprocess.run(
            argv, capture_output=True, text=True, timeout=CRIU_SECONDS, check=False, env={}
        )
    except subprocess.TimeoutExpired as error:
        raise InstallError(
            f"criu {words[0]} did not end", "report this with the kernel's version"
        ) from error
    if result.returncode:
        lines = log.read_text().splitlines() if log.exists() else [result.stderr.strip()]
        told = [line for line in lines if "Error" in line] or lines
        raise InstallError(
            f"criu {words[0]} failed: {told[-1] if told else 'without a word'}", REMEDY
        )
