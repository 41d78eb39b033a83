"""A node that has been stopped leaves nothing on the machine. Standard library only: runs on the host."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import unittest
from collections.abc import Callable
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY))

from dev.lib.cache import Cache, default_root  # noqa: E402
from dev.lib.node import Node  # noqa: E402

DEV_NODE = str(REPOSITORY / "dev/node")

#: Namespaces that a node has of its own.
KINDS = ("mnt", "pid", "net", "ipc", "uts", "cgroup")

#: Of the whole machine; a container host likes to set them.
SYSCTLS = ("vm/overcommit_memory", "vm/panic_on_oom", "kernel/panic", "kernel/panic_on_oops", "kernel/core_pattern",
           "kernel/unprivileged_bpf_disabled", "net/ipv4/ip_forward", "net/ipv4/conf/all/rp_filter",
           "net/ipv4/conf/lo/route_localnet", "net/ipv6/conf/all/forwarding", "net/ipv6/conf/default/accept_dad",
           "net/netfilter/nf_conntrack_max")  # fmt: skip


def dev_node(*words: str) -> str:
    """Runs dev/node and returns what it printed."""
    done = subprocess.run([sys.executable, DEV_NODE, *words], capture_output=True, stdin=subprocess.DEVNULL, text=True, check=False)  # fmt: skip
    if done.returncode:
        msg = "dev/node {}: {}".format(" ".join(words), done.stderr)
        raise AssertionError(msg)
    return done.stdout


def processes() -> dict[int, dict[str, Any]]:
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


def namespaces(pid: int) -> set[str]:
    """The namespaces of a process, by kind and number."""
    return {os.readlink(f"/proc/{pid}/ns/{kind}") for kind in KINDS}


def machine(name: str) -> dict[str, Any]:
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


def until(done: Callable[[], bool], seconds: float) -> bool:
    """Waits for something; whether it came."""
    deadline = time.monotonic() + seconds
    while not done():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


class Stop(unittest.TestCase):
    """What is there before a start and after a stop."""

    def setUp(self) -> None:
        self.name = f"leak-{os.getpid()}"
        self.addCleanup(dev_node, "stop", "--name", self.name)
        self.before = machine(self.name)

    def facts(self) -> dict[str, Any]:
        self.node = Node(Cache(), self.name)
        facts = self.node.facts()
        assert facts is not None
        return facts

    def check_nothing_left(self, spaces: set[str], known: set[tuple[int, str]]) -> None:
        """No process in the node's namespaces, none of its processes, and the machine as it was."""
        left = []  # type: List[str]

        def gone() -> bool:
            now = processes()
            left[:] = [f"{pid} {facts}" for pid, facts in now.items()
                       if spaces & set(facts["spaces"].values()) or (pid, facts["started"]) in known]  # fmt: skip
            return not left

        assert until(gone, 10), left
        # The kernel takes a network namespace apart after its last process has gone.
        until(lambda: machine(self.name) == self.before, 5)
        assert machine(self.name) == self.before
        assert not self.node.state.exists()

    def ours(self, spaces: set[str]) -> set[tuple[int, str]]:
        """The node's processes and their containers', by pid and start time."""
        tag = "zeropod-dev-" + self.name
        return {
            (pid, facts["started"])
            for pid, facts in processes().items()
            if tag in facts["cgroup"] or spaces & set(facts["spaces"].values())
        }

    def test_nothing_is_left_after_a_pod_has_run(self) -> None:
        """A node with a running pod, stopped, leaves no mount, interface, process, cgroup or pin."""
        dev_node("start", "--name", self.name)
        dev_node("pod", "--name", self.name, "run", "localhost/redis:1", "--annotation",
                 "zeropod.ctrox.dev/scaledown-duration=1s")  # fmt: skip
        time.sleep(3)
        own = {os.readlink("/proc/self/ns/" + kind) for kind in KINDS}
        spaces = namespaces(self.facts()["pid"]) - own
        assert len(spaces) == len(KINDS)
        known = self.ours(spaces)
        assert len(known) > 4
        dev_node("stop", "--name", self.name)
        self.check_nothing_left(spaces, known)

    def test_start_is_idempotent_and_fast(self) -> None:
        """A start from the cache takes under 10 s; a second one changes nothing."""
        dev_node("start", "--name", self.name)
        dev_node("stop", "--name", self.name)
        begun = time.monotonic()
        dev_node("start", "--name", self.name)
        took = time.monotonic() - begun
        first = self.facts()
        dev_node("start", "--name", self.name)
        assert self.facts() == first
        assert took < 10
        dev_node("stop", "--name", self.name)

    def test_interrupted_start_is_cleaned_up(self) -> None:
        """A start that is killed half-way leaves something that a stop removes and a start replaces."""
        dev_node("start", "--name", self.name)
        dev_node("stop", "--name", self.name)
        started = subprocess.Popen([sys.executable, DEV_NODE, "start", "--name", self.name],
                                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # fmt: skip
        note = default_root() / "nodes" / self.name / "node.json"
        assert until(lambda: note.exists() and json.loads(note.read_text())["pid"] > 0, 20)
        started.send_signal(signal.SIGKILL)
        started.wait()
        spaces = namespaces(self.facts()["pid"]) - {
            os.readlink("/proc/self/ns/" + kind) for kind in KINDS
        }
        known = self.ours(spaces)
        dev_node("stop", "--name", self.name)
        self.check_nothing_left(spaces, known)


if __name__ == "__main__":
    unittest.main()
