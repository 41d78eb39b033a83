"""What cannot be checkpointed, decided before anything is touched; pure.

criu would find most of it too, but late, with the application frozen and in words for criu's developers. Some of it
criu would not find before the restore, when it is too late. Each refusal names what was found and what would cure it.
"""

from __future__ import annotations

import os
import re
import socket
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence

from checkpointer.criu import GHOST_LIMIT
from checkpointer.descriptors import Process, Surroundings

_ATOMIC_WRITER = re.compile(r"/\.\.\d{4}_\d\d_\d\d_\d\d_\d\d_\d\d\.\d+(/|$)")
"""Directories that kubelet swaps under configmaps, secrets and tokens (k8s.io/kubernetes pkg/volume/util
atomic_writer.go); a file open in one is gone after the swap."""

_BY_LINK = (
    (
        "anon_inode:[io_uring]",  # criu#2131
        "it uses io_uring; start the pod again, without the annotation zeropod.ctrox.dev/allow-io-uring: programs "
        "that are not allowed to use it do without",
    ),
    ("anon_inode:[perf_event]", "it has performance counters open; stop profiling it"),
    ("anon_inode:bpf-", "it has BPF maps or programs open, which criu cannot dump"),
    (
        "anon_inode:[userfaultfd]",
        "it handles its own page faults (userfaultfd), which criu cannot dump",
    ),
    ("anon_inode:[fanotify]", "it watches files with fanotify, which criu cannot restore"),
    (
        "anon_inode:[landlock-ruleset]",
        "it confines itself with Landlock, which criu does not restore",
    ),
    (
        "/dev/tty",  # criu/tty.c: tty_verify_ctty
        "a program runs in it on a terminal of its own; it sleeps when that session has ended",
    ),
)
"""Link targets of /proc/PID/fd that criu cannot bring back, with the remedy."""

_ANONYMOUS = ("inotify", "[inotify]", "[eventfd", "[eventpoll", "[signalfd", "[timerfd", "[pidfd]")
"""Anonymous inodes that criu knows (criu/files.c: dump_one_file)."""

_MEMORY, _MISC, _TUN = 1, 10, 200
_TERMINALS = frozenset({4, 5, *range(128, 144)})  # linux/major.h: TTY_MAJOR, .., UNIX98

_FAMILIES = {38: "AF_ALG", 40: "vsock", 43: "SMC", 44: "AF_XDP"}
_MPTCP = 262
_KNOWN: dict[int, tuple[int, ...]] = {
    socket.SOCK_STREAM: (0, socket.IPPROTO_TCP),
    socket.SOCK_DGRAM: (0, socket.IPPROTO_UDP, socket.IPPROTO_UDPLITE),
}
"""Protocols that criu can dump, by the type of an inet socket (criu/sk-inet.c: can_dump_ipproto)."""

_EMPTY = Surroundings()


def reason(tree: Iterable[Process], around: Surroundings = _EMPTY) -> str:
    """Why this tree cannot be checkpointed now; "" if nothing is known to stand in the way."""
    tree = list(tree)
    for check in _CHECKS:
        for why in check(tree, around):
            return why
    return ""


def of_path(path: str) -> str:
    """Why a file that is open, mapped or watched cannot be found again at the wake; "" if it can."""
    if _ATOMIC_WRITER.search(path):
        return (
            f"it keeps {path!r} open, mapped or watched, which kubelet replaces when the configmap, secret or token "
            "changes; let the application close such files after reading, and watch the directory of the volume"
        )
    return ""


def _traced(tree: Sequence[Process], _: Surroundings) -> Iterator[str]:
    for process in tree:
        if process.tracer:
            yield (
                f"process {process.pid} is traced by {process.tracer} (a debugger or strace); it sleeps when that ends"
            )


def _namespaces(tree: Sequence[Process], _: Surroundings) -> Iterator[str]:
    for process in tree:
        if process.namespaces:
            kinds = " and ".join(process.namespaces)
            yield (
                f"process {process.pid} has a {kinds} namespace of its own, as sandboxes of browsers and builds do; "
                "turn the application's own sandbox off (--no-sandbox for Chromium)"
            )


def _links(tree: Sequence[Process], _: Surroundings) -> Iterator[str]:
    for link in (link for process in tree for link in process.links):
        for start, why in _BY_LINK:
            if link.startswith(start):
                yield why
        name = link.removeprefix("anon_inode:")
        if name != link and not name.startswith(_ANONYMOUS):
            yield f"it has an object of the kind {name} open, which criu cannot dump"


def _paths(tree: Sequence[Process], _: Surroundings) -> Iterator[str]:
    for process in tree:
        for path in (*process.links, *process.paths):
            if why := of_path(path):
                yield why
            if path.startswith("/secretmem"):
                yield "it has secret memory (memfd_secret), which nobody else may read, criu neither"


def _events(tree: Sequence[Process], _: Surroundings) -> Iterator[str]:
    if count := sum(process.unread for process in tree):
        yield unread(count)


def unread(count: int) -> str:
    """Why inotify events that nobody has read stand in the way."""
    return f"it has not read {count} bytes of inotify events yet, which would be lost; it sleeps when it has"


def _files(tree: Sequence[Process], around: Surroundings) -> Iterator[str]:
    for file in (file for process in tree for file in process.files):
        deleted = file.path.endswith(" (deleted)")
        name = file.path.removesuffix(" (deleted)")
        if stat.S_ISBLK(file.mode) or (stat.S_ISCHR(file.mode) and not _character(file.rdev)):
            yield f"it has the device {name!r} open, whose state criu cannot dump"
        elif around.mounts and file.mount not in around.mounts and not _memory(name):
            # POSIX message queues as well: they are on a mount that nobody sees.
            yield f"it has {name!r} open, which is on no mount of the container"
        elif deleted and stat.S_ISREG(file.mode) and not file.links and file.size > GHOST_LIMIT:
            yield (
                f"it keeps the deleted file {name!r} of {file.size >> 20} MB open; at most {GHOST_LIMIT >> 20} MB can "
                "be brought back: let it truncate or close the file"
            )
        elif deleted and stat.S_ISDIR(file.mode) and file.links:
            yield f"it keeps the directory {name!r} of its image open, which was deleted"


def _memory(name: str) -> bool:
    """Say whether a file is a memfd, which is on no mount either, but criu knows it."""
    return name.startswith("/memfd:")


def _character(rdev: int) -> bool:
    """Say whether criu can open this character device again (criu/files.c: dump_chrdev)."""
    major, minor = os.major(rdev), os.minor(rdev)
    return major == _MEMORY or major in _TERMINALS or (major, minor) == (_MISC, _TUN)


def _pidfds(tree: Sequence[Process], _: Surroundings) -> Iterator[str]:
    pids = {process.pid for process in tree}
    for process in tree:
        if outside := set(process.pidfds) - pids:
            yield (
                f"process {process.pid} has a descriptor (pidfd) of process {min(outside)}, which is not one of the "
                "application's"
            )


def _inet(tree: Sequence[Process], _: Surroundings) -> Iterator[str]:
    for found in (found for process in tree for found in process.sockets):
        if found.family in {socket.AF_UNIX, socket.AF_NETLINK, socket.AF_PACKET}:
            continue
        if found.family not in {socket.AF_INET, socket.AF_INET6}:
            name = _FAMILIES.get(found.family, f"of address family {found.family}")
            yield f"it has a socket ({name}) open, which criu cannot dump"
        elif found.proto == _MPTCP:
            yield (
                "it has an MPTCP socket, which criu cannot dump; start the pod again, MPTCP is off in new pods "
                "(Go programs: or set GODEBUG=multipathtcp=0)"
            )
        elif found.proto not in _KNOWN.get(found.kind, (found.proto,)):
            yield f"it has a socket of IP protocol {found.proto} open, which criu cannot dump"
        elif found.ulp:
            yield (
                f"the kernel speaks {found.ulp.upper()} on one of its connections (kTLS), which criu would restore as "
                "clear text; turn kTLS off in the application"
            )


def _unix(tree: Sequence[Process], around: Surroundings) -> Iterator[str]:
    if not around.unix:
        return
    mine = {found.inode: found for process in tree for found in process.sockets}
    names = {around.unix[inode].name for inode in mine if inode in around.unix}
    for inode, found in mine.items():
        known = around.unix.get(inode)
        if known is None or known.peer in mine or not (known.peer or found.peer):
            continue
        if not known.peer and found.peer in names:
            continue  # it waits to be accepted by the application itself
        other = around.unix.get(known.peer)
        name = repr(found.peer or known.name or "without a name")
        if known.kind != socket.SOCK_DGRAM:
            yield (
                f"it is connected to another program by a Unix socket ({name}), and one end alone cannot be brought "
                "back; it sleeps when that connection is closed"
            )
        elif other is None or not other.name:
            yield (
                f"it is connected to a Unix socket ({name}) of a program outside of the pod, such as the node's "
                "syslog; let it log to standard output, by UDP, or to a syslog daemon in the same pod"
            )


def _nat(_: Sequence[Process], around: Surroundings) -> Iterator[str]:
    if around.nat:
        yield (
            f"its pod changes the addresses or ports of packets ({around.nat}), as a service mesh's sidecar has it do, and "
            "what comes in could not be told to be for it; keep the mesh out of this pod (Istio: the label "
            'sidecar.istio.io/inject: "false")'
        )


_CHECKS: tuple[Callable[[Sequence[Process], Surroundings], Iterator[str]], ...] = (
    _traced,
    _namespaces,
    _links,
    _paths,
    _events,
    _files,
    _pidfds,
    _inet,
    _unix,
    _nat,
)
