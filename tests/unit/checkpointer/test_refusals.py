"""What is refused before an application is touched."""

from __future__ import annotations

import os
import socket
import stat

import pytest

from checkpointer import refusals
from checkpointer.descriptors import File, Process, Socket, Surroundings
from checkpointer.refusals import reason
from redirector.unix import Unix

REGULAR, FOLDER, DEVICE = stat.S_IFREG | 0o644, stat.S_IFDIR | 0o755, stat.S_IFCHR | 0o666

MOUNT = 30

AROUND = Surroundings(
    frozenset({MOUNT}),
    {
        1: Unix(socket.SOCK_STREAM, 2, "/tmp/own.sock"),
        2: Unix(socket.SOCK_STREAM, 1, ""),
        3: Unix(socket.SOCK_STREAM, 99, ""),
        4: Unix(socket.SOCK_DGRAM, 5, ""),
        5: Unix(socket.SOCK_DGRAM, 0, "/dev/log"),
        6: Unix(socket.SOCK_DGRAM, 77, ""),
        7: Unix(socket.SOCK_STREAM, 0, ""),
    },
)


def tree(**more: object) -> list[Process]:
    """Two processes, of which the second has something special."""
    plain = {"tracer": 0, "links": (), "paths": ("/",)}
    ordinary = Process(7, 0, ("pipe:[1]", "socket:[2]"), ("/",))
    return [ordinary, Process(8, **{**plain, **more})]  # type: ignore[arg-type]


def file(
    path: str, mode: int = REGULAR, *, links: int = 1, size: int = 0, rdev: int = 0
) -> dict[str, object]:
    """A process with one file."""
    return {"files": (File(path, mode, links, size, rdev, MOUNT),)}


def sock(inode: int, family: int, kind: int, proto: int, **more: str) -> dict[str, object]:
    """A process with one socket."""
    return {"sockets": (Socket(inode, family, kind, proto, **more),)}


@pytest.mark.parametrize(
    "ordinary",
    [
        {"links": ("anon_inode:[eventpoll]", "anon_inode:inotify", "/data/dump.rdb", "/dev/null")},
        {"links": ("anon_inode:[timerfd]", "anon_inode:[eventfd]", "anon_inode:[pidfd]")},
        {"pidfds": (7,)},
        file("/data/log (deleted)", links=0, size=1 << 20),
        file("/data/log (deleted)", links=1, size=1 << 30),
        file("/tmp/gone (deleted)", FOLDER, links=0),
        {"files": (File("/memfd:m (deleted)", REGULAR, 0, 80, 0, 999),)},
        file("/dev/null", DEVICE, rdev=os.makedev(1, 3)),
        file("/dev/pts/0", DEVICE, rdev=os.makedev(136, 0)),
        file("/dev/net/tun", DEVICE, rdev=os.makedev(10, 200)),
        sock(50, socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP),
        sock(50, socket.AF_INET6, socket.SOCK_DGRAM, socket.IPPROTO_UDP),
        sock(50, socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP),
        sock(50, socket.AF_NETLINK, socket.SOCK_RAW, 0),
        sock(50, socket.AF_PACKET, socket.SOCK_DGRAM, 768),
        sock(4, socket.AF_UNIX, socket.SOCK_DGRAM, 0),
        sock(7, socket.AF_UNIX, socket.SOCK_STREAM, 0),
        {
            "sockets": (
                Socket(1, socket.AF_UNIX, socket.SOCK_STREAM, 0),
                Socket(2, socket.AF_UNIX, socket.SOCK_STREAM, 0),
                Socket(7, socket.AF_UNIX, socket.SOCK_STREAM, 0, "/tmp/own.sock"),
            )
        },
        {
            "sockets": (
                Socket(1, socket.AF_UNIX, socket.SOCK_STREAM, 0),
                Socket(2, socket.AF_UNIX, socket.SOCK_STREAM, 0),
            )
        },
    ],
)
def test_an_ordinary_tree_is_not_refused(ordinary: dict[str, object]) -> None:
    """What applications have open day by day, criu knows."""
    assert reason(tree(**ordinary), AROUND) == ""


@pytest.mark.parametrize(
    ("special", "told"),
    [
        ({"tracer": 99}, "traced by 99"),
        ({"namespaces": ("net", "user")}, "net and user namespace"),
        ({"links": ("anon_inode:[io_uring]",)}, "allow-io-uring"),
        ({"links": ("anon_inode:[perf_event]",)}, "performance counters"),
        ({"links": ("anon_inode:bpf-map",)}, "BPF maps"),
        ({"links": ("anon_inode:[userfaultfd]",)}, "userfaultfd"),
        ({"links": ("anon_inode:[landlock-ruleset]",)}, "Landlock"),
        ({"links": ("anon_inode:kvm-vcpu:0",)}, "kvm-vcpu:0"),
        ({"links": ("/dev/tty",)}, "terminal"),
        ({"paths": ("/", "/secretmem (deleted)")}, "memfd_secret"),
        ({"unread": 32}, "32 bytes of inotify events"),
        ({"pidfds": (7, 1)}, "pidfd"),
        (file("/dev/nvidia0", DEVICE, rdev=os.makedev(195, 0)), "'/dev/nvidia0'"),
        (file("/dev/fuse", DEVICE, rdev=os.makedev(10, 229)), "'/dev/fuse'"),
        (file("/dev/vda", stat.S_IFBLK | 0o600, rdev=os.makedev(254, 0)), "'/dev/vda'"),
        (file("/data/x (deleted)", links=0, size=refusals.GHOST_LIMIT + 1), "64 MB"),
        (file("/usr/share/x (deleted)", FOLDER, links=2), "'/usr/share/x'"),
        ({"files": (File("/queue", REGULAR, 1, 80, 0, 999),)}, "'/queue'"),
        (sock(50, 40, socket.SOCK_STREAM, 0), "vsock"),
        (sock(50, 29, socket.SOCK_RAW, 1), "address family 29"),
        (sock(50, socket.AF_INET, socket.SOCK_STREAM, 262), "GODEBUG=multipathtcp=0"),
        (sock(50, socket.AF_INET, socket.SOCK_STREAM, 132), "protocol 132"),
        (sock(50, socket.AF_INET, socket.SOCK_DGRAM, 1), "protocol 1"),
        (sock(50, socket.AF_INET, socket.SOCK_STREAM, 6, ulp="tls"), "TLS"),
        (sock(3, socket.AF_UNIX, socket.SOCK_STREAM, 0, peer="/run/db.sock"), "/run/db.sock"),
        (sock(7, socket.AF_UNIX, socket.SOCK_STREAM, 0, peer="/run/db.sock"), "/run/db.sock"),
        (sock(6, socket.AF_UNIX, socket.SOCK_DGRAM, 0, peer="/dev/log"), "syslog"),
    ],
)
def test_what_cannot_be_brought_back_is_refused_with_the_remedy(
    special: dict[str, object], told: str
) -> None:
    """Each in its own sentence."""
    assert told in reason(tree(**special), AROUND)


@pytest.mark.parametrize("where", ["links", "paths"])
def test_files_below_an_atomic_writers_directory_are_refused(where: str) -> None:
    """Kubelet swaps them while the application is asleep."""
    path = "/etc/config/..2026_11_21_10_00_00.123456789/app.yaml"
    assert "kubelet replaces" in reason(tree(**{where: (path,)}))
    assert reason(tree(**{where: ("/etc/config/..2026/app.yaml", "/etc/..data")})) == ""


def test_a_reason_is_text_whatever_a_container_names_its_files() -> None:
    """What cannot be printed is escaped: it goes into messages, logs and somebody's terminal."""
    path = "/tmp/..2026_11_21_10_00_00.1/\udcff\x1b[2J"
    other = sock(3, socket.AF_UNIX, socket.SOCK_STREAM, 0, peer="/run/\udcff\x1b[2J")
    for said in (reason(tree(links=(path,))), reason(tree(**other), AROUND)):
        said.encode()
        assert said.isprintable()
        assert "\\udcff" in said


def test_a_pod_that_rewrites_its_packets_is_refused() -> None:
    """Which rule it is, and what a service mesh has to do with it."""
    rule = "REDIRECT in chain PREROUTING of table nat"
    said = reason(tree(), Surroundings(nat=rule))
    assert rule in said
    assert "sidecar" in said
