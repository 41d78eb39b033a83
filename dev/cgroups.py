"""Cgroups of pods on a node, made and removed as kubelet does; `dev.lib.cgroups` has the node's own."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path

from dev import patience

ROOT = Path("/sys/fs/cgroup")


def hierarchies() -> list[Path]:
    """The roots of all cgroup hierarchies of the node; one on cgroup v2."""
    if unified():
        return [ROOT]
    return sorted(path for path in ROOT.iterdir() if path.is_dir() and not path.is_symlink())


def unified() -> bool:
    """Whether the node has cgroup v2 and nothing else."""
    return (ROOT / "cgroup.procs").exists()


def make(name: str, limits: Mapping[str, int]) -> None:
    """Makes a pod's cgroup with its limits, before there is a sandbox.

    Args:
        name: below each hierarchy's root.
        limits: `cpu_quota` (microseconds in each 100 ms), `memory` (bytes); what is absent or
            negative is not limited.
    """
    quota, memory = limits.get("cpu_quota", -1), limits.get("memory", -1)
    wanted = {}
    if quota > 0:
        wanted.update({"cpu.cfs_quota_us": str(quota), "cpu.max": f"{quota} 100000"})
    if memory > 0:
        wanted.update({"memory.limit_in_bytes": str(memory), "memory.max": str(memory)})
    for root in hierarchies():
        folder = root / name
        folder.mkdir(parents=True, exist_ok=True)
        if unified():
            _pass_down(folder)
        for item, value in wanted.items():
            # Each hierarchy has some of them.
            if (folder / item).exists():
                (folder / item).write_text(value, encoding="ascii")


def remove(name: str, fast: float = 5.0) -> None:
    """Removes a cgroup that holds no process any more, with all below it, in every hierarchy."""
    for root in hierarchies():
        deadline = time.monotonic() + patience.seconds(fast)
        while (root / name).exists() and time.monotonic() < deadline:
            for folder, _, _ in os.walk(root / name, topdown=False):
                try:
                    Path(folder).rmdir()
                except OSError:
                    # The kernel is still taking its last process apart.
                    time.sleep(0.02)


def _pass_down(folder: Path) -> None:
    for path in (folder.parent, folder):
        above = (path.parent / "cgroup.subtree_control").read_text(encoding="ascii")
        for controller in above.split():
            (path / "cgroup.subtree_control").write_text(f"+{controller}", encoding="ascii")
