"""Faults that tests bring about, and what they expect of the daemon then."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from node import sleepers
from node.scrapes import counted

from checkpointer import cgroups, settings
from dev import cri
from ttrpc.errors import TtrpcError

Pods = Callable[..., cri.Pod]

STATE = settings.Settings().state_dir


def restart_daemon() -> None:
    """A planned restart: it is back when this returns."""
    pid = sleepers.service_pid("daemon")
    os.kill(pid, signal.SIGTERM)
    cri.until(lambda: not sleepers.alive(pid), 30)
    sleepers.ready()


@contextlib.contextmanager
def small_disk(at: Path, **options: str) -> Iterator[Path]:
    """Mount a small file system somewhere."""
    words = ",".join(f"{name}={value}" for name, value in {"mode": "700", **options}.items())
    subprocess.run(["mount", "-t", "tmpfs", "-o", words, "small", at], check=True)
    try:
        yield at
    finally:
        # A page daemon may have its last image open for a moment more.
        cri.until(lambda: subprocess.run(["umount", at], check=False).returncode == 0, 30)


@contextlib.contextmanager
def small_state(**options: str) -> Iterator[Path]:
    """While the context lasts the images are on a small file system."""
    with small_disk(STATE, **options) as disk:
        restart_daemon()
        yield disk
    restart_daemon()


@contextlib.contextmanager
def flags(*words: str) -> Iterator[None]:
    """While the context lasts the daemon has these words on its command line."""
    file = Path("/run/node/daemon.flags")
    file.write_text(" ".join(words))
    try:
        restart_daemon()
        yield
    finally:
        file.unlink()
        restart_daemon()


@contextlib.contextmanager
def no_bytes(disk: Path) -> Iterator[None]:
    """Fill a file system to its last block."""
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(1 << 20))
    with ballast.open("ab", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(1 << 12))
    try:
        assert os.statvfs(disk).f_bavail == 0
        yield
    finally:
        ballast.unlink()


@contextlib.contextmanager
def no_inodes(disk: Path) -> Iterator[None]:
    """Take every inode of a file system."""
    ballast = disk / "ballast"
    ballast.mkdir()
    with contextlib.suppress(OSError):
        for number in range(1 << 20):
            (ballast / str(number)).touch()
    try:
        assert os.statvfs(disk).f_favail == 0
        yield
    finally:
        for file in ballast.iterdir():
            file.unlink()
        ballast.rmdir()


@contextlib.contextmanager
def stopped(pids: list[int]) -> Iterator[None]:
    """While the context lasts these processes do not run."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


def settle(one: sleepers.Sleeper) -> None:
    """Wait until its last wake is over with all that comes after it."""
    one.reach("RUNNING")
    cri.until(lambda: not one.image().exists(), 30)


def refused(one: sleepers.Sleeper, kind: str) -> str:
    """Try to put it to sleep; the reason why not, which has to be of this kind."""
    with pytest.raises(TtrpcError) as caught:
        one.sleep()
    now = one.info()
    assert (now["state"], now["kind"]) == ("RUNNING", kind), now
    assert now["reason"] in one.why()
    assert one.supervisor() == "run"
    told = {
        "refused": "zeropod_sleeps_refused_total",
        "sleep-failed": "zeropod_sleep_failures_total",
    }
    counted(one, told[now["cause"]], reason=kind)
    return str(caught.value)


def held(one: sleepers.Sleeper, kind: str, seconds: float = 3.0) -> None:
    """See that its wake waits, for a reason of this kind, and does not fail for so long."""
    cri.until(lambda: one.info()["kind"] == kind, 30)
    assert not no_failure(one, seconds)
    counted(one, "zeropod_wakes_held_total", reason=kind)


def no_failure(one: sleepers.Sleeper, seconds: float) -> str:
    """Watch a wake that is held for some seconds; what is wrong with it."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        now = one.info()
        if now["state"] != "WAKING" or now["failed_wakes"]:
            return str(now)
        time.sleep(0.1)
    return ""


def memory_limit(one: sleepers.Sleeper) -> Path:
    """The file of a container's memory limit."""
    group = cgroups.of(one.pid).controller("memory")
    assert group is not None
    return next(
        group / name for name in ("memory.limit_in_bytes", "memory.max") if (group / name).exists()
    )
