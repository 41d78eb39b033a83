"""What a node could leave on this machine: asked before it is started and after it has ended."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any, Callable, Dict, List, Set, Tuple

#: Namespaces that a node has of its own.
KINDS = ("mnt", "pid", "net", "ipc", "uts", "cgroup")

#: Of the whole machine; a container host likes to set them.
SYSCTLS = ("vm/overcommit_memory", "vm/panic_on_oom", "kernel/panic", "kernel/panic_on_oops", "kernel/core_pattern",
           "kernel/unprivileged_bpf_disabled", "net/ipv4/ip_forward", "net/ipv4/conf/all/rp_filter",
           "net/ipv4/conf/lo/route_localnet", "net/ipv6/conf/all/forwarding", "net/ipv6/conf/default/accept_dad",
           "net/netfilter/nf_conntrack_max")  # fmt: skip


def processes() -> Dict[int, Dict[str, Any]]:
    """All processes: when started, in which namespaces, in which cgroups."""
    found = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            stat = (entry / "stat").read_text(errors="replace").rpartition(")")[2].split()
            spaces = {kind: os.readlink(str(entry / "ns" / kind)) for kind in KINDS}
            found[int(entry.name)] = {
                "started": stat[19],
                "spaces": spaces,
                "cgroup": (entry / "cgroup").read_text(),
            }
        except OSError:
            continue
    return found


def namespaces(pid: int) -> Set[str]:
    """The namespaces of a process, by kind and number."""
    return {os.readlink(f"/proc/{pid}/ns/{kind}") for kind in KINDS}


def machine(name: str) -> Dict[str, Any]:
    """What of the machine a node could change, as far as it can be told from what others do."""
    mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    pins = [
        os.path.join(folder, entry)
        for folder, _, files in os.walk("/sys/fs/bpf")
        for entry in files
    ]
    return {
        "mounts": sorted(
            line for line in mounts if name in line or "/nodes/" in line or "bpf" in line
        ),
        "interfaces": sorted(os.listdir("/sys/class/net")),
        "cgroups": sorted(folder for folder, _, _ in os.walk("/sys/fs/cgroup") if name in folder),
        "pins": sorted(pins),
        "sysctls": {item: _read("/proc/sys/" + item) for item in SYSCTLS},
        "temporary": sorted(str(p) for p in Path("/tmp").glob("zeropod-dev*"))
        + sorted(str(p) for p in Path("/var/tmp").glob("zeropod-dev*")),
    }


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""


def ours(name: str, spaces: Set[str]) -> Set[Tuple[int, str]]:
    """The processes of a node and of its containers, by pid and start time."""
    tag = "zeropod-dev-" + name
    return {
        (pid, facts["started"])
        for pid, facts in processes().items()
        if tag in facts["cgroup"] or spaces & set(facts["spaces"].values())
    }


def left(
    name: str, before: Dict[str, Any], spaces: Set[str], known: Set[Tuple[int, str]]
) -> List[str]:
    """What is left of a node: processes in its namespaces or of its own, and how the machine differs from before."""
    alive: List[str] = []

    def gone() -> bool:
        alive[:] = ["%d %s" % (pid, facts) for pid, facts in processes().items()
                    if spaces & set(facts["spaces"].values()) or (pid, facts["started"]) in known]  # fmt: skip
        return not alive

    def more() -> List[str]:
        now = machine(name)
        found = ["%s: %s, before %s" % (item, value, before["sysctls"][item])
                 for item, value in now.pop("sysctls").items() if value != before["sysctls"][item]]  # fmt: skip
        # What others had and have no more is none of ours.
        return found + [
            "%s: %s" % (kind, one)
            for kind in now
            for one in sorted(set(now[kind]) - set(before[kind]))
        ]

    until(gone, 10)
    # The kernel takes a network namespace apart after its last process has gone.
    until(lambda: not more(), 5)
    return alive + more()


def own() -> Set[str]:
    """The namespaces of this process."""
    return namespaces(os.getpid())


def until(done: Callable[[], bool], seconds: float) -> bool:
    """Waits for something; whether it came."""
    deadline = time.monotonic() + seconds
    while not done():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True
