"""What cannot be checkpointed, found by looking at the tree before anything is touched.

criu would find most of it too, but late, with the application frozen and in words for criu's developers. Each refusal
names what was found and what would cure it (facts from criu's sources and issues, named beside each).
"""

import dataclasses
import logging
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

log = logging.getLogger(__name__)

_ATOMIC_WRITER = re.compile(r"/\.\.\d{4}_\d\d_\d\d_\d\d_\d\d_\d\d\.\d+(/|$)")
"""Directories that kubelet swaps under configmaps, secrets and tokens (k8s.io/kubernetes pkg/volume/util
atomic_writer.go); a file open in one is gone after the swap."""

_BY_LINK = (
    (
        "anon_inode:[io_uring]",  # criu#2131
        "it uses io_uring; set sysctl kernel.io_uring_disabled=2 on the node or turn it off in the application "
        "(UV_USE_IO_URING=0 for Node.js)",
    ),
    ("anon_inode:[perf_event]", "it has performance counters open; stop profiling it"),
    ("anon_inode:bpf-map", "it has BPF maps open, which criu cannot dump"),
    ("anon_inode:bpf-prog", "it has BPF programs open, which criu cannot dump"),
    (
        "anon_inode:[userfaultfd]",
        "it handles its own page faults (userfaultfd), which criu cannot dump",
    ),
    ("anon_inode:[fanotify]", "it watches files with fanotify, which criu cannot restore"),
)
"""Link targets of /proc/PID/fd that criu cannot dump, with the remedy."""


@dataclasses.dataclass(frozen=True, slots=True)
class Process:
    """What was read of one process: pid, tracer's pid (0: none), targets of its descriptors, cwd and mapped files."""

    pid: int
    tracer: int
    links: tuple[str, ...]
    paths: tuple[str, ...]


def read(pids: Iterable[int]) -> Iterator[Process]:
    """Look at each process; those that end meanwhile are passed over."""
    for pid in pids:
        proc = Path(f"/proc/{pid}")
        try:
            links = tuple(_links(proc / "fd"))
            tracer = _tracer((proc / "status").read_text(errors="replace"))
            maps = {
                line.split(None, 5)[5]
                for line in (proc / "maps").read_text(errors="replace").split("\n")
                if line.count("/")
            }
            yield Process(pid, tracer, links, (str((proc / "cwd").readlink()), *sorted(maps)))
        except OSError as error:
            log.debug("refusals.gone", extra={"pid": pid, "error": str(error)})


def reason(tree: Iterable[Process]) -> str:
    """Why this tree cannot be checkpointed now; "" if nothing is known to stand in the way."""
    for process in tree:
        if process.tracer:
            return f"process {process.pid} is traced by {process.tracer} (a debugger or strace); it sleeps when that ends"
        for link in process.links:
            for start, why in _BY_LINK:
                if link.startswith(start):
                    return why
        for path in (*process.links, *process.paths):
            if _ATOMIC_WRITER.search(path):
                return (
                    f"it keeps {path!r} open or mapped, which kubelet replaces when the configmap, secret or token changes; "
                    "let the application close such files after reading"
                )
    return ""


def _tracer(status: str) -> int:
    """The pid after TracerPid in the text of /proc/PID/status."""
    return next(
        int(line.split()[1]) for line in status.splitlines() if line.startswith("TracerPid:")
    )


def _links(directory: Path) -> Iterator[str]:
    for name in os.listdir(directory):  # noqa: PTH208 - names, not paths: this runs for thousands of descriptors
        try:
            yield os.readlink(directory / name)  # noqa: PTH115 - the text as it stands
        except FileNotFoundError:
            continue  # closed meanwhile
