"""What daemon and plugin leave on a node: their state, their pins, their cgroups, a mount."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterable
from pathlib import Path

from installer.checks import BPFFS
from installer.departure import slices
from installer.errors import InstallError
from installer.host import Host

RUN, STATE, PINS = "/run/zeropod", "/var/lib/zeropod", "/sys/fs/bpf/zeropod"

OURS = ("images", "staging", "failed")
"""What the daemon makes in its state directory, which may be an administrator's own file system."""

KERNELS = {"maps.debug", "progs.debug"}
"""What a kernel puts into a new bpffs by itself (kernel/bpf/preload)."""

PLACES = (*(f"{STATE}/{name}" for name in OURS), RUN, PINS)


def remove(host: Host, mounts: Iterable[str]) -> list[str]:
    """Take it away; return what was done, for people.

    Raises:
        InstallError: something stays.
    """
    done = []
    try:
        for path in PLACES:
            real = host.real(path)
            if real.is_dir() and not real.is_symlink():
                _empty(real)
                done.append(f"removed {path}")
        host.remove_directory(STATE)
    except OSError as error:
        raise InstallError(
            f"{error.filename} cannot be removed ({error.strerror})", "remove it yourself"
        ) from error
    directories = slices(host)
    for directory in directories:
        for below, _, _ in os.walk(directory, topdown=False):
            with contextlib.suppress(OSError):  # a process of an hour ago is not a reason to stay
                Path(below).rmdir()
    if directories and not any(directory.exists() for directory in directories):
        done.append(f"removed the cgroup {directories[0].name}")
    if BPFFS in mounts and _unmounted(host):
        done.append(f"unmounted {BPFFS}")
    return done


def _unmounted(host: Host) -> bool:
    """Unmount bpffs, unless others have pinned something there. Seen with the eyes of the node's init: ours may be older."""
    try:
        there = {path.name for path in (host.real("/proc") / "1/root/sys/fs/bpf").iterdir()}
    except OSError:
        return False
    if there - KERNELS or not host.mounted(BPFFS, "bpf"):
        return False
    inside = ["nsenter", "-t", "1", "-m"] if host.root != Path("/") else []
    return host.run(*inside, "umount", BPFFS).returncode == 0


def _empty(directory: Path) -> None:
    """Remove a directory, which may be somebody's mount point."""
    for path in directory.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
    with contextlib.suppress(OSError):
        directory.rmdir()
