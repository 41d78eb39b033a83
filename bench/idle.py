"""What zeropod itself costs: memory with no pod, memory of a sleeping pod, CPU while 20 sleep. Runs inside the node."""

from __future__ import annotations

import argparse
import ctypes
import json
import mmap
import os
import re
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from bench import rows
from bench.daemon import IMAGES, Daemon

PODS = 20
SECONDS = 30.0
CGROUPS = ("zeropod-daemon", "zeropod-plugin", "zeropod.slice")


def main() -> int:
    """Measure, print."""
    parser = argparse.ArgumentParser("dev/bench idle", description=__doc__)
    parser.add_argument("-o", "--output", choices=("text", "json"), default="text")
    options = parser.parse_args()
    results = measure()
    if options.output == "json":
        print(json.dumps(results, indent=2))
        return 0
    for name, value in results.items():
        print(f"{name:<70} {value}")
    return 0


def measure() -> dict[str, Any]:
    """All figures, by name; MB and KB are 10^6 and 10^3 bytes."""
    daemon, row = Daemon(), rows.ROWS[0]
    # One pod first: what is imported or allocated once is no cost of a pod.
    pods = [rows.start(row, "idle-0")[0]]
    daemon.sleep("bench/idle-0")
    daemon.wake("bench/idle-0")
    pods.pop().remove()
    time.sleep(1)
    before = memory()
    try:
        supervisors, containers = 0, []
        for number in range(PODS):
            pod, container = rows.start(row, f"idle-{number}")
            pods.append(pod)
            daemon.sleep(f"bench/idle-{number}")
            supervisors += private(container.pid)
            containers.append(container)
        time.sleep(2)
        after, images, cached = memory(), on_disk(), in_page_cache()
        charged = [cgroup(container.pid) for container in containers]
        begun = cpu()
        time.sleep(SECONDS)
        used = (cpu() - begun) / SECONDS
    finally:
        for pod in pods:
            pod.remove()
    held = (sum(after.values()) - sum(before.values())) / PODS
    return {
        "daemon, plugin and helpers with no pod, PSS MB": round(sum(before.values()) / 1e6, 1),
        "  of it": {name: round(value / 1e6, 1) for name, value in before.items()},
        "a sleeping redis: held by daemon and helpers, KB": round(held / 1e3),
        "a sleeping redis: its cgroup, kernel memory included, KB": kilobytes(
            u for u, _ in charged
        ),
        "  of it its own processes (the supervisor), KB": round(supervisors / PODS / 1e3),
        "a sleeping redis: page cache in its cgroup (files of its image), KB": kilobytes(
            c for _, c in charged
        ),
        "a sleeping redis: image on disk, MB": round(images / PODS / 1e6, 1),
        "  of it in the page cache, MB": round(cached / PODS / 1e6, 1),
        f"CPU of all of it while {PODS} sleep, %": round(100 * used, 2),
    }


def processes() -> dict[str, list[int]]:
    """Our processes by cgroup."""
    found: dict[str, list[int]] = {name: [] for name in CGROUPS}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                groups = Path(f"/proc/{entry}/cgroup").read_text(encoding="ascii")
            except OSError:
                continue
            for name in CGROUPS:
                if re.search(rf"/{re.escape(name)}(/|$)", groups, re.MULTILINE):
                    found[name].append(int(entry))
                    break
    return found


def memory() -> dict[str, int]:
    """PSS in bytes by cgroup: shared pages are counted once, shared out (proc(5), smaps_rollup)."""
    return {name: sum(_smaps(pid, "Pss") for pid in pids) for name, pids in processes().items()}


def private(pid: int) -> int:
    """Bytes that only this process holds."""
    return _smaps(pid, "Private_Clean") + _smaps(pid, "Private_Dirty")


def cpu() -> float:
    """CPU seconds used so far by our processes."""
    ticks = 0
    for pids in processes().values():
        for pid in pids:
            fields = (
                Path(f"/proc/{pid}/stat")
                .read_text(encoding="ascii", errors="replace")
                .rpartition(")")[2]
                .split()
            )
            ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def kilobytes(each: Iterable[int]) -> int:
    """The average pod's."""
    return round(sum(each) / PODS / 1e3)


def cgroup(pid: int) -> tuple[int, int]:
    """Bytes charged to a process' memory cgroup: what its processes and the kernel hold for it, and page cache beside."""
    for line in Path(f"/proc/{pid}/cgroup").read_text(encoding="ascii").splitlines():
        _, controllers, path = line.split(":", 2)
        for root, current, cache in (
            (Path(f"/sys/fs/cgroup/memory{path}"), "memory.usage_in_bytes", "total_cache"),
            (Path(f"/sys/fs/cgroup{path}"), "memory.current", "file"),
        ):
            if controllers in ("", "memory") and (root / current).exists():
                text = (root / "memory.stat").read_text(encoding="ascii")
                found = dict(row.split() for row in text.splitlines())
                cached = int(found[cache])
                return int((root / current).read_text(encoding="ascii")) - cached, cached
    raise LookupError(pid)


def in_page_cache() -> int:
    """Bytes of all images that are in memory, and can be had back at any time (mincore(2))."""
    page, count = mmap.PAGESIZE, 0
    for path in IMAGES.rglob("*"):
        if path.is_file() and (size := path.stat().st_size):
            with (
                path.open("rb") as file,
                mmap.mmap(file.fileno(), size, access=mmap.ACCESS_COPY) as mapped,
            ):
                seen = (ctypes.c_ubyte * -(-size // page))()
                start = ctypes.c_char.from_buffer(mapped)
                ctypes.CDLL(None).mincore(ctypes.byref(start), ctypes.c_size_t(size), seen)
                del start  # else the map could not be closed
                count += page * sum(one & 1 for one in seen)
    return count


def on_disk() -> int:
    """Bytes of all images."""
    return sum(path.stat().st_blocks * 512 for path in IMAGES.rglob("*") if path.is_file())


def _smaps(pid: int, field: str) -> int:
    text = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii")
    return sum(
        int(value) * 1024 for value in re.findall(rf"^{field}:\s+(\d+)", text, re.MULTILINE)
    )


if __name__ == "__main__":
    sys.exit(main())
