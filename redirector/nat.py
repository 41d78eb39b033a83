"""Whether a pod's own packet filter changes the addresses or ports of its packets, as a service mesh has it do.

Frames are held at tc, before netfilter on the way in: what the application knows as its port or its peer would not be
in them. Read from the kernel, because rules may come from nft, iptables-nft or the old iptables, from inside the pod or
outside; by hand like `sockets`: two dumps of what mostly is empty, in half a millisecond.
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

from bpf import syscall
from redirector import netlink, netns
from redirector.netlink import attributes, text

# linux/netlink.h, linux/netfilter/nfnetlink.h, linux/netfilter/nf_tables.h
_NETLINK_NETFILTER = 12
_GETRULE = 10 << 8 | 7
_NFGENMSG = 4
_TABLE, _CHAIN, _EXPRESSIONS = 1, 2, 4
_EXPRESSION_NAME, _EXPRESSION_DATA, _TARGET_NAME = 1, 2, 1
_BUFFER = 1 << 17
_UNSUPPORTED = {errno.EOPNOTSUPP, errno.EPROTONOSUPPORT, errno.EINVAL, errno.ENOENT}

_EXPRESSIONS_OF_NAT = {"nat", "redir", "masq", "tproxy"}
_TARGETS_OF_NAT = {"REDIRECT", "DNAT", "SNAT", "MASQUERADE", "NETMAP", "TPROXY"}

# linux/netfilter_ipv{4,6}/ip{,6}_tables.h
_GET_INFO = 64
_INFO = struct.Struct("=32sI5I5III")
_OLD = (
    (socket.AF_INET, socket.SOL_IP, "ip_tables_names"),
    (socket.AF_INET6, 41, "ip6_tables_names"),
)


def rule(pid: int) -> str:
    """Describe a rule that does so in the network namespace of `pid`; "" if there is none.

    Raises:
        OSError: the process is gone.
    """
    return netns.run(pid, here)


def here() -> str:
    """Describe one of the calling thread's own network namespace."""
    return next(_new(), "") or next(_old(), "")


def _rules() -> Iterator[dict[int, bytes]]:
    """Iterate over the rules of nf_tables, those of iptables-nft among them."""
    with socket.socket(
        socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_NETFILTER
    ) as link:
        netlink.ask(link, _GETRULE, bytes(_NFGENMSG))
        yield from netlink.answers(link, _parse, _BUFFER)


def _parse(buffer: bytes) -> Iterator[dict[int, bytes] | None]:
    for content in netlink.contents(buffer, "nf_tables"):
        yield None if content is None else dict(attributes(content[_NFGENMSG:]))


def _new() -> Iterator[str]:
    try:
        for found in _rules():
            for _, expression in attributes(found.get(_EXPRESSIONS, b"")):
                parts = dict(attributes(expression))
                name = text(parts.get(_EXPRESSION_NAME, b""))
                if name == "target":
                    data = dict(attributes(parts.get(_EXPRESSION_DATA, b"")))
                    name = text(data.get(_TARGET_NAME, b""))
                if name in _EXPRESSIONS_OF_NAT or name in _TARGETS_OF_NAT:
                    table, chain = (text(found.get(key, b"")) for key in (_TABLE, _CHAIN))
                    yield f"{name} in chain {chain} of table {table}"
    except OSError as error:
        if error.errno not in _UNSUPPORTED:  # a kernel without nf_tables has no rules of it
            raise


def _old() -> Iterator[str]:
    """Iterate over the tables of iptables-legacy; its "nat" may be there and hold only the policies of its hooks."""
    for family, level, names in _OLD:
        path = Path("/proc/thread-self/net", names)
        if not path.exists() or "nat" not in path.read_text().split():
            continue
        with socket.socket(
            family, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.IPPROTO_RAW
        ) as raw:
            asked = b"nat".ljust(_INFO.size, b"\0")
            info = syscall.getsockopt(raw.fileno(), level, _GET_INFO, asked)
            entries, hooks = _entries(info)
            if entries > hooks + 1:  # behind the policies there is one that marks the end
                yield f"{entries - hooks - 1} rules in iptables-legacy's table nat"


def _entries(info: bytes) -> tuple[int, int]:
    """Return how many entries a table has, and how many hooks."""
    _, hooks, *rest = _INFO.unpack(info)
    return rest[10], hooks.bit_count()
