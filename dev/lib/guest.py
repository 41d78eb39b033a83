"""The first program of a virtual machine's Debian: makes it a machine, does one task, switches it off.

What it was told is in /out/plan.json, what came of it goes into /out/result.json.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any, Callable, Dict, List

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from dev.lib import sandbox
from dev.lib.cache import Cache
from dev.lib.environment import Environment
from dev.lib.node import Node
from dev.lib.runs import Run
from dev.lib.suites import Suites

log = logging.getLogger("dev")

OUT, DISKS = Path("/out"), Path("/disks")

#: Where the cache is: on the disk that may be written to.
CACHE = DISKS / "scratch/cache"


class OnDisks(Environment):
    """Everything is built, and on disks by its name; there is nothing here to build with."""

    def node_layers(self, variant: str) -> List[Path]:
        """For an overlay mount, topmost first."""
        names = ("containerd", "supervisor", "criu", "venv", "rootfs")
        return [DISKS / name for name in names if (DISKS / name).exists()]

    def images(self) -> Path:
        """The directory of test images."""
        return DISKS / "images"

    def app_images(self) -> Path:
        """The directory of those that are imported only when they are asked for."""
        return DISKS / "app-images"


def become_a_machine() -> None:
    """Mounts what a machine has, one cgroup v2 hierarchy included."""
    for kind, where, options in (
        ("devpts", "/dev/pts", "gid=5,mode=620"), ("tmpfs", "/dev/shm", "mode=1777"),
        ("tmpfs", "/run", "mode=755"), ("tmpfs", "/tmp", "mode=1777"),
        ("cgroup2", "/sys/fs/cgroup", "nsdelegate"), ("bpf", "/sys/fs/bpf", "mode=700"),
        ("securityfs", "/sys/kernel/security", "nosuid"),
    ):  # fmt: skip
        Path(where).mkdir(exist_ok=True)
        subprocess.run(["mount", "-t", kind, "-o", options, kind, where], check=True)
    for name, target in (
        ("fd", "/proc/self/fd"),
        ("stdin", "fd/0"),
        ("stdout", "fd/1"),
        ("stderr", "fd/2"),
    ):
        os.symlink(target, "/dev/" + name)
    socket.sethostname("machine")
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    for module in ("virtio_console", "virtio_rng"):
        subprocess.run(["modprobe", module], check=True)


def stream() -> None:
    """From now on what we print goes to whoever started the machine."""
    while True:
        for path in Path("/sys/class/virtio-ports").glob("*"):
            port = os.open("/dev/" + path.name, os.O_WRONLY)
            os.dup2(port, 1)
            os.dup2(port, 2)
            return
        time.sleep(0.05)


def tests(plan: Dict[str, Any]) -> Any:
    """Runs a suite of node tests; its result as `report.Result` has it."""
    suites = Suites(_environment(plan), plan["arguments"], limit=plan["limit"])
    # Whoever looks on knows by whom the lines are.
    return asdict(suites.on_node(Run(**dict(plan["run"], name=""))))


def command(plan: Dict[str, Any]) -> Any:
    """Runs one program in a node, or beside it; its exit status."""
    environment = _environment(plan)
    if plan["bare"]:
        return subprocess.run(plan["words"], check=False, stdin=subprocess.DEVNULL).returncode
    node = Node(environment.cache, "machine")
    node.start(environment, variant=plan["variant"])
    try:
        return node.call(plan["words"], cwd="/src")
    finally:
        node.stop()


#: By the name that a plan calls them.
TASKS: Dict[str, Callable[[Dict[str, Any]], Any]] = {"tests": tests, "command": command}


def _environment(plan: Dict[str, Any]) -> OnDisks:
    return OnDisks(cache=Cache(CACHE), rootfs=DISKS / "rootfs", venv=DISKS / "venv", criu=DISKS / "criu",
                   apps=DISKS, supervisor=DISKS / "supervisor", project=plan["project"])  # fmt: skip


def work(plan: Dict[str, Any]) -> None:
    """The task, in a process of its own."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    uptime = Path("/proc/uptime").read_text(encoding="ascii").split()[0]
    log.info("Linux %s, up after %s s", os.uname().release, uptime)
    result = TASKS[plan["task"]](plan)
    (OUT / "result.json").write_text(json.dumps(result), encoding="utf-8")


def main() -> None:
    """PID 1. The kernel has put `ZEROPOD_SLOW` of its command line into our environment."""
    os.environ.update(PATH=sandbox.PATH, HOME="/root", LANG="C.UTF-8", PYTHONDONTWRITEBYTECODE="1")
    become_a_machine()
    stream()
    child = os.fork()
    if not child:
        try:
            work(json.loads((OUT / "plan.json").read_text(encoding="utf-8")))
        except BaseException:
            log.exception("the task failed")
        finally:
            sys.stderr.flush()
            os._exit(0)
    while os.wait()[0] != child:
        pass
    os.sync()
    # qemu was told that a reboot is the end.
    Path("/proc/sysrq-trigger").write_text("b", encoding="ascii")
    time.sleep(10)


if __name__ == "__main__":
    main()
