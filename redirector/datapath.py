"""The node's datapath: programs loaded once, pods attached, holds made.

    datapath = Datapath.open(Path("/sys/fs/bpf/zeropod"))
    pod = datapath.attach(pid, sandbox_id)
    hold = pod.hold(container_id)

Calls block for milliseconds and belong on worker threads.
"""

from __future__ import annotations

import fcntl
import logging
import os
import subprocess
import sys
import time
from pathlib import Path

from bpf import pins, syscall
from bpf.maps import Maps
from bpf.pins import Pins
from redirector import netns
from redirector.answering import Answering
from redirector.endpoints import Held
from redirector.errors import LoadError
from redirector.kubelet import Ear
from redirector.pod import Pod
from redirector.podstate import PodState
from redirector.programs import Programs
from redirector.registry import Registry
from redirector.settings import Settings
from redirector.turns import Turns

log = logging.getLogger(__name__)


class Datapath:
    """All pods of the node."""

    def __init__(self, where: Pins, settings: Settings) -> None:
        opened = Maps(where.map)
        self._registry = Registry(opened)
        self._programs = Programs(where, syscall.bpf_map_info(opened.holds.fd).id)
        self._settings = settings
        self._pods: dict[str, Pod] = {}
        self._turns = Turns()
        self._answering: Answering | None = None
        self.kubelet = Ear(where)

    @classmethod
    def open(cls, root: Path, settings: Settings | None = None) -> Datapath:
        """Open what is pinned below `root`; load it first if these sources have not been yet.

        The load spawns the loader, so call this before anything that must not see a fork (grpc).

        Raises:
            LoadError: the loader failed, or `root` is no place for pins.
        """
        if not pins.is_bpffs(root):
            message = f"{root} is not in a bpf file system: mount -t bpf bpf /sys/fs/bpf"
            raise LoadError(message)
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        where = Pins(root)
        lock = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not where.complete():
                _load(root)
            where.remove_stale()
        finally:
            os.close(lock)
        return cls(where, settings or Settings())

    def answer_by(self, answering: Answering) -> None:
        """Have the kubelet answered in the pods that are attached from now on, while something is held in them."""
        self._answering = answering

    def answer_again(self, *, anew: bool) -> bool:
        """See that who answers the kubelet lives; where not, or `anew`, have it done in every pod that holds something.

        Returns:
            Whether that was to be done; a new responder has to be told what to say.
        """
        if self._answering is None or (self._answering.lives() and not anew):
            return False
        for pod in list(self._pods.values()):
            pod.answer_again()
        return True

    def settle(self) -> None:
        """Once every pod in which something is held is attached: answer in no others."""
        if self._answering is not None:
            self._answering.keep([pod.sandbox_id for pod in self._pods.values() if pod.holds])

    def helpers(self) -> dict[str, int]:
        """Return the pids of what outlives this process, by name."""
        return self._answering.pids() if self._answering is not None else {}

    def attach(self, pid: int, sandbox_id: str) -> Pod:
        """Return the pod whose network namespace `pid` is in, its filters in place; idempotent.

        Raises:
            OSError: the process is gone.
            AttachError: a filter was refused.
            FullError: there are too many pods on this node.
        """
        with self._turns.of(sandbox_id):
            pod = self._pods.get(sandbox_id)
            if pod is None:
                slot = self._registry.slot(sandbox_id, netns.inode(pid))
                state = PodState(self._registry, slot)
                pod = Pod(state, self._programs, self._settings, self._answering)
                self._pods[sandbox_id] = pod
            pod.refresh(pid)
            return pod

    def forget(self, sandbox_id: str) -> None:
        """Remove everything about a pod that is gone, so that its slot can be another's.

        Whoever attaches to it meanwhile comes before, with a pod that is retired afterwards, or gets a new slot.
        """
        with self._turns.of(sandbox_id):
            pod = self._pods.pop(sandbox_id, None)
            if pod is not None:
                pod.close()
            for slot in self._registry.slots():
                if slot.sandbox_id == sandbox_id:
                    self._registry.drop_slot(slot.number)

    def abandon(self, sandbox_id: str, container_id: str) -> None:
        """Let pass what is still held for a container that has ended while nobody looked."""
        with self._turns.of(sandbox_id):
            pod = self._pods.get(sandbox_id)
            if pod is not None:
                pod.drop(container_id)
                return
            for slot in self._registry.slots():
                number = self._registry.hold_ids(slot.number).get(container_id)
                if slot.sandbox_id == sandbox_id and number is not None:
                    self._registry.drop_hold(number)

    def sandboxes(self) -> list[str]:
        """Return the pods that the maps know, attached in this process or not."""
        return [slot.sandbox_id for slot in self._registry.slots()]

    def holds(self) -> list[Held]:
        """Return what the maps hold, e.g. to reconcile after a restart."""
        return self._registry.held()


def _load(root: Path) -> None:
    """Run the loader in a process of its own, which takes the compiler's memory with it."""
    search = os.pathsep.join(
        filter(None, [str(pins.SOURCES.parent), os.environ.get("PYTHONPATH")])
    )
    started = time.monotonic()
    result = subprocess.run(
        [sys.executable, "-m", "bpf.loader", str(root)],
        env={**os.environ, "PYTHONPATH": search},
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    if result.returncode:
        message = f"loader exited with {result.returncode}: {result.stderr.strip()[-2000:]}"
        raise LoadError(message)
    log.info(
        "datapath.loaded",
        extra={"root": str(root), "ms": round((time.monotonic() - started) * 1e3)},
    )
