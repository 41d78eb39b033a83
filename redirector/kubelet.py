"""Which connections are the kubelet's: a program on its cgroup notes each before the first packet leaves.

What is pinned works on without us, for as long as the cgroup exists.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from pathlib import Path

from bpf import syscall
from bpf.pins import Pins

log = logging.getLogger(__name__)

_PREFIX = "kubelet-"


class Ear:
    """The program on the kubelet's cgroup, or on those of several.

    Attributes:
        hears: Whether there is any.
    """

    def __init__(self, where: Pins) -> None:
        self._where = where
        self.hears = False

    def put(self, cgroups: Iterable[Path]) -> None:
        """Have the program run in these version 2 cgroups, and in no others.

        The new link is there before the old one goes, so that no connection is missed.

        Raises:
            OSError: the kernel refused it; what was there before is there still.
        """
        program = self._where.program("kubelet_calls")
        wanted = set()
        try:
            for number, cgroup in enumerate(cgroups):
                pin = self._where.root / f"{_PREFIX}{number}"
                wanted.add(pin)
                self._link(program, cgroup, pin)
        finally:
            os.close(program)
        self.hears = bool(wanted)
        for pin in self._where.root.glob(f"{_PREFIX}*"):
            if pin not in wanted:
                pin.unlink(missing_ok=True)

    def _link(self, program: int, cgroup: Path, pin: Path) -> None:
        directory = os.open(cgroup, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            link = syscall.bpf_link_create(program, directory, syscall.BPF_CGROUP_SOCK_OPS)
        finally:
            os.close(directory)
        fresh = pin.with_name(f"new-{pin.name}")
        try:
            fresh.unlink(missing_ok=True)
            syscall.bpf_obj_pin(link, str(fresh))
            fresh.rename(pin)
        finally:
            os.close(link)
        log.info("kubelet.heard", extra={"cgroup": str(cgroup)})
