"""Network links of the namespace the calling thread is in: found, read and changed by ioctl.

ioctls on a plain socket instead of netlink: one system call each.
"""

from __future__ import annotations

import fcntl
import os
import re
import socket
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

# linux/if.h, linux/sockios.h, linux/if_arp.h
IFF_UP, IFF_NOARP = 0x1, 0x80
_SIOCGIFFLAGS, _SIOCSIFFLAGS = 0x8913, 0x8914
_SIOCGIFHWADDR = 0x8927
_SIOCSIFTXQLEN = 0x8943
_ARPHRD_ETHER, _ARPHRD_LOOPBACK = 1, 772
# linux/if_tun.h
_TUNSETIFF = 0x400454CA
_IFF_TAP, _IFF_NO_PI, _IFF_VNET_HDR = 0x0002, 0x1000, 0x4000

TAP_NAME = re.compile(r"zp\d+")
"""Our own devices, never attached to."""

VNET_HEADER = 10
"""struct virtio_net_hdr in front of every frame (linux/virtio_net.h)."""


class Link(NamedTuple):
    """An Ethernet link, or lo."""

    name: str
    ifindex: int
    mac: bytes
    is_loopback: bool


def _request(name: str, data: bytes = b"") -> bytes:
    """Return a struct ifreq."""
    return struct.pack("16s24s", name.encode(), data)


def _flags(sock: socket.socket, name: str) -> int:
    reply = fcntl.ioctl(sock, _SIOCGIFFLAGS, _request(name))
    return int(struct.unpack_from("16xH", reply)[0])


def _links(sock: socket.socket) -> Iterator[Link]:
    for ifindex, name in socket.if_nameindex():
        if TAP_NAME.fullmatch(name) or not _flags(sock, name) & IFF_UP:
            continue
        reply = fcntl.ioctl(sock, _SIOCGIFHWADDR, _request(name))
        family, mac = struct.unpack_from("16xH6s", reply)
        if family in (_ARPHRD_ETHER, _ARPHRD_LOOPBACK):
            yield Link(name, ifindex, mac, family == _ARPHRD_LOOPBACK)


def found() -> list[Link]:
    """Return the links whose packets may be held: Ethernet and loopback, up, not our TAPs."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        return list(_links(sock))


def set_up(name: str, *, txqueuelen: int) -> None:
    """Bring a TAP up without ARP, with room for `txqueuelen` frames."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        fcntl.ioctl(sock, _SIOCSIFTXQLEN, _request(name, struct.pack("i", txqueuelen)))
        flags = _flags(sock, name) | IFF_UP | IFF_NOARP
        fcntl.ioctl(sock, _SIOCSIFFLAGS, _request(name, struct.pack("H", flags)))


def make_tap() -> tuple[int, str, int]:
    """Create a TAP that is still down; return its descriptor (non-blocking), name and ifindex.

    The device lives as long as the descriptor. It gets no IPv6: its own router solicitations and
    multicast reports would look like traffic (seen: they woke the pod).
    """
    fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        kind = _IFF_TAP | _IFF_NO_PI | _IFF_VNET_HDR
        reply = fcntl.ioctl(fd, _TUNSETIFF, _request("zp%d", struct.pack("H", kind)))
        name = reply[:16].rstrip(b"\0").decode()
        set_sysctl(f"net/ipv6/conf/{name}/disable_ipv6", 1, missing_ok=True)
        return fd, name, socket.if_nametoindex(name)
    except BaseException:
        os.close(fd)
        raise


def get_sysctl(name: str) -> int:
    """Return the value of a sysctl of the thread's network namespace, e.g. "net/ipv4/conf/..."."""
    return int(Path("/proc/sys", name).read_text())


def ephemeral() -> tuple[int, int]:
    """Return the first and the last port that the kernel chooses for who binds none, in the thread's network namespace."""
    low, high = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()
    return int(low), int(high)


def set_sysctl(name: str, value: int, *, missing_ok: bool = False) -> None:
    """Set a sysctl of the thread's network namespace; `missing_ok` for kernels without IPv6."""
    try:
        Path("/proc/sys", name).write_text(f"{value}\n")
    except FileNotFoundError:
        if not missing_ok:
            raise
