"""Where the pinned programs and maps are, and descriptors of them.

ROOT/maps-<hash of maps.h>/NAME        keep what is held over upgrades of the programs
ROOT/programs-<hash of all>/NAME       one directory per build, complete or absent
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from bpf import syscall

SOURCES = Path(__file__).parent
# enum bpf_prog_type (linux/bpf.h); bcc's own constants need bcc imported
_SCHED_CLS, _SOCK_OPS = 3, 13
PROGRAMS = {
    **dict.fromkeys(("eth_in", "eth_out", "lo_in", "tap_in", "tap_out"), _SCHED_CLS),
    "kubelet_calls": _SOCK_OPS,
}
"""By name, with their types."""

_LAYOUT = ("maps.h",)
_ALL = ("maps.h", "packet.h", "answer.h", "pings.h", "calls.h", "datapath.c")


def _digest(names: tuple[str, ...]) -> str:
    """Return 16 hex digits that change with the sources `names`."""
    digest = hashlib.sha256()
    for name in names:
        digest.update((SOURCES / name).read_bytes())
    return digest.hexdigest()[:16]


def is_bpffs(path: Path) -> bool:
    """Tell whether `path` is, or would be, in a bpf file system."""
    mounts: dict[Path, str] = {}
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, where, kind, *_ = line.split()
        mounts[Path(where)] = kind
    return next((mounts[place] for place in (path, *path.parents) if place in mounts), "") == "bpf"


class Pins:
    """The directories below one root in a bpf file system."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.maps = root / f"maps-{_digest(_LAYOUT)}"
        self.programs = root / f"programs-{_digest(_ALL)}"

    def complete(self) -> bool:
        """Tell whether a loader has finished here for these very sources."""
        return self.programs.is_dir()

    def map(self, name: str) -> int:
        """Return a descriptor of the map `name`."""
        return syscall.bpf_obj_get(os.fspath(self.maps / name))

    def program(self, name: str) -> int:
        """Return a descriptor of the program `name`."""
        return syscall.bpf_obj_get(os.fspath(self.programs / name))

    def remove_stale(self) -> None:
        """Unpin programs of other builds and maps of other layouts; attached filters keep theirs."""
        keep = {self.maps, self.programs}
        for directory in self.root.iterdir():
            if directory.name.startswith(("programs-", "maps-", "new-")) and directory not in keep:
                for pin in directory.iterdir():
                    pin.unlink()
                directory.rmdir()
