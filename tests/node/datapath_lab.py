"""Two network namespaces joined by a cable, for tests of the datapath alone."""

from __future__ import annotations

import array
import fcntl
import os
import select
import socket
import struct
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest

from dev import patience
from redirector import netns
from redirector.endpoints import Connection, Keepalive, Port, Stream, Wake
from redirector.hold import Hold

T = TypeVar("T")

POD = {socket.AF_INET: "10.231.0.2", socket.AF_INET6: "fd31::2"}
CLIENT = {socket.AF_INET: "10.231.0.1", socket.AF_INET6: "fd31::1"}
LOOPBACK = {socket.AF_INET: "127.0.0.1", socket.AF_INET6: "::1"}
ANY = {socket.AF_INET: "0.0.0.0", socket.AF_INET6: "::"}
SO_RCVBUFFORCE = 33  # asm-generic/socket.h
SIOCETHTOOL, ETHTOOL_STXCSUM = 0x8946, 0x17  # linux/sockios.h, linux/ethtool.h
# linux/tcp.h
TCP_REPAIR, TCP_REPAIR_QUEUE, TCP_QUEUE_SEQ, TCP_REPAIR_OPTIONS = 19, 20, 21, 22
TCP_TIMESTAMP, TCP_REPAIR_WINDOW = 24, 29
TCP_RECV_QUEUE, TCP_SEND_QUEUE = 1, 2
FAMILIES = [socket.AF_INET, socket.AF_INET6]
both_families = pytest.mark.parametrize("family", FAMILIES, ids=["ipv4", "ipv6"])
PATIENCE = patience.seconds(30)  # for anything that must happen


class Namespace:
    """A network namespace that lives as long as a sleeping process in it."""

    def __init__(self) -> None:
        self.sockets: list[socket.socket] = []
        self._process = subprocess.Popen(["unshare", "--net", "sleep", "infinity"])
        self.pid = self._process.pid
        ours = netns.inode(os.getpid())
        until(lambda: netns.inode(self.pid) != ours)
        self.shell("ip link set lo up")

    def shell(self, command: str) -> str:
        """Run a command in the namespace and return what it prints."""
        args = ["nsenter", "-t", str(self.pid), "-n", "sh", "-ec", command]
        return subprocess.run(args, check=True, capture_output=True, text=True).stdout

    def run(self, function: Callable[[], T]) -> T:
        """Call `function` in the namespace; sockets it makes stay there."""
        return netns.run(self.pid, function)

    def socket(self, family: int, kind: int, proto: int = 0) -> socket.socket:
        """Return a socket of this namespace."""
        made = self.run(lambda: socket.socket(family, kind, proto))
        self.sockets.append(made)
        return made

    def close(self) -> None:
        """End the namespace."""
        self._process.kill()
        self._process.wait()


class Lab:
    """A pod and a client, one hop apart."""

    def __init__(self) -> None:
        self.pod, self.client = Namespace(), Namespace()
        self._accepted: list[socket.socket] = []
        self.client.shell(f"ip link add cable type veth peer name eth0 netns {self.pod.pid}")
        for space, link, addresses in ((self.client, "cable", CLIENT), (self.pod, "eth0", POD)):
            space.shell(
                f"ip addr add {addresses[socket.AF_INET]}/24 dev {link};"
                f"ip addr add {addresses[socket.AF_INET6]}/64 dev {link} nodad;"
                f"ip link set {link} up"
            )
        until(lambda: "LOWER_UP" in self.pod.shell("ip link show eth0"))

    def serve(self, family: int, port: int = 0, address: str | None = None) -> socket.socket:
        """Return a TCP listener in the pod."""
        listener = self.pod.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((address or ANY[family], port))
        listener.listen(128)
        listener.settimeout(PATIENCE)
        return listener

    def datagrams(self, family: int) -> socket.socket:
        """Return a UDP socket in the pod with room for a long queue."""
        receiver = self.pod.socket(family, socket.SOCK_DGRAM)
        receiver.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 64 << 20)
        receiver.bind((ANY[family], 0))
        receiver.settimeout(PATIENCE)
        return receiver

    def dial(self, listener: socket.socket, space: Namespace | None = None) -> socket.socket:
        """Start to connect to a listener, without waiting for the answer."""
        family = listener.family
        caller = (space or self.client).socket(family, socket.SOCK_STREAM)
        caller.setblocking(False)
        caller.connect_ex((POD[family], port_of(listener)))
        return caller

    def accept(self, listener: socket.socket) -> socket.socket:
        """Return the next connection of a listener."""
        accepted, _ = listener.accept()
        accepted.settimeout(PATIENCE)
        self._accepted.append(accepted)
        return accepted

    def hang_up(self) -> None:
        """Close every socket, between two tests."""
        for lists in (self._accepted, self.pod.sockets, self.client.sockets):
            for sock in lists:
                sock.close()
            lists.clear()

    def connect(self, listener: socket.socket) -> tuple[socket.socket, socket.socket]:
        """Return a connection that is open: the client's end and the pod's."""
        caller = self.dial(listener)
        accepted = self.accept(listener)
        caller.settimeout(PATIENCE)
        assert is_connected(caller)
        return caller, accepted

    def close(self) -> None:
        """End both namespaces."""
        self.pod.close()
        self.client.close()


def port_of(sock: socket.socket) -> int:
    """Return a socket's own port."""
    return int(sock.getsockname()[1])


def until(condition: Callable[[], object], seconds: float = 15) -> None:
    """Wait for a condition; fail when it does not come."""
    patience.until(condition, seconds, pause=0.005)


def _ready(fd: int, events: int, seconds: float) -> bool:
    """Wait for a descriptor; not with select(2), which has no bits for more than 1024 of them."""
    waiting = select.poll()
    waiting.register(fd, events)
    return bool(waiting.poll(1000 * seconds))


def is_readable(sock: socket.socket, seconds: float = 0.1) -> bool:
    """Tell whether something arrives within `seconds`."""
    return _ready(sock.fileno(), select.POLLIN, seconds)


def is_connected(caller: socket.socket, seconds: float = PATIENCE) -> bool:
    """Tell whether a connect that was started succeeds; raise when it is refused."""
    if not _ready(caller.fileno(), select.POLLOUT, seconds):
        return False
    error = caller.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if error:
        raise OSError(error, os.strerror(error))
    return True


def wake_of(hold: Hold, seconds: float = PATIENCE) -> Wake | None:
    """Return the next reason to wake, None when none comes within `seconds`."""
    deadline = time.monotonic() + seconds
    while True:
        wake = hold.receive()
        left = deadline - time.monotonic()
        if wake is not None or left <= 0:
            return wake
        _ready(hold.fd, select.POLLIN, left)


def until_queued(hold: Hold, frames: int) -> None:
    """Wait until a hold has caught so many frames."""

    def caught() -> bool:
        hold.receive()
        return hold.queued >= frames

    until(caught)


def repair(sock: socket.socket) -> None:
    """Take a TCP socket out of the kernel's hands, as criu does: it says nothing to the peer any more."""
    sock.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR, 1)


def vanish(sock: socket.socket) -> None:
    """Close a TCP socket as criu's dump does: in repair mode, without a word to the peer."""
    repair(sock)
    sock.close()


def checkpoint(sock: socket.socket) -> Stream:
    """Say how an idle connection stands, as criu's image does, and close it."""
    repair(sock)
    keepalive = None
    if sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE):
        names = (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
        keepalive = Keepalive(*(sock.getsockopt(socket.IPPROTO_TCP, name) for name in names))
    numbers = {}
    for queue in (TCP_RECV_QUEUE, TCP_SEND_QUEUE):
        sock.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR_QUEUE, queue)
        numbers[queue] = _unsigned(sock, TCP_QUEUE_SEQ)
    options, scales = struct.unpack(
        "5xBB97x", sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)
    )
    _, _, _, window, edge = struct.unpack(
        "=5I", sock.getsockopt(socket.IPPROTO_TCP, TCP_REPAIR_WINDOW, 20)
    )
    tsval = _unsigned(sock, TCP_TIMESTAMP) if options & 1 else None
    sock.close()
    received = numbers[TCP_RECV_QUEUE]
    sent = numbers[TCP_SEND_QUEUE]
    return Stream(sent, sent, received, edge + window - received, scales >> 4, tsval, keepalive)


def restore(space: Namespace, connection: Connection, stream: Stream) -> socket.socket:
    """Make the socket of a connection again, as criu's restore does."""
    family = socket.AF_INET6 if ":" in connection.local_ip else socket.AF_INET
    sock = space.socket(family, socket.SOCK_STREAM)
    repair(sock)
    for queue, number in ((TCP_RECV_QUEUE, stream.rcv_nxt), (TCP_SEND_QUEUE, stream.snd_nxt)):
        sock.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR_QUEUE, queue)
        sock.setsockopt(socket.IPPROTO_TCP, TCP_QUEUE_SEQ, struct.pack("=I", number))
    if stream.keepalive:
        keep_alive(sock, *stream.keepalive)
    sock.bind((connection.local_ip, connection.local_port))
    sock.connect((connection.remote_ip, connection.remote_port))
    scales = stream.shift | stream.shift << 16  # one kernel, the same for both
    options = struct.pack("=IIII", 3, scales, 4, 0)  # window scale, SACK
    if stream.tsval is not None:
        options += struct.pack("=II", 8, 0)
    sock.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR_OPTIONS, options)
    if stream.tsval is not None:
        sock.setsockopt(socket.IPPROTO_TCP, TCP_TIMESTAMP, struct.pack("=I", stream.tsval))
    window = (stream.rcv_nxt, 65000, 65000, stream.window, stream.rcv_nxt)
    sock.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR_WINDOW, struct.pack("=5I", *window))
    sock.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR, 0)
    sock.settimeout(20)
    return sock


def connection_of(peer: socket.socket) -> Connection:
    """Return the pod's view of a connection, from the client's end."""
    return Connection(*peer.getpeername()[:2], *peer.getsockname()[:2])


def crash(hold: Hold) -> None:
    """Lose the TAP as a killed daemon does: nothing else is tidied up."""
    hold.discard()


def keep_alive(sock: socket.socket, idle: int, interval: int, count: int) -> None:
    """Have a socket probe its peer."""
    names = (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
    for name, value in zip(names, (idle, interval, count), strict=True):
        sock.setsockopt(socket.IPPROTO_TCP, name, value)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)


def checksum_offload(space: Namespace, link: str, on: bool) -> None:
    """Choose whether what leaves a link has its checksum filled in by the kernel or, as it were, by the device."""
    value = array.array("I", [ETHTOOL_STXCSUM, on])
    request = struct.pack("16sP16x", link.encode(), value.buffer_info()[0])
    sock = space.socket(socket.AF_INET, socket.SOCK_DGRAM)
    fcntl.ioctl(sock, SIOCETHTOOL, request)


def counter(space: Namespace, name: str) -> int:
    """Return one of the namespace's numbers, as nstat(8) names it."""
    return int(space.shell(f"nstat -asz {name} | tail -1").split()[1])


def _unsigned(sock: socket.socket, option: int) -> int:
    return sock.getsockopt(socket.IPPROTO_TCP, option) % (1 << 32)


def sysctl(space: Namespace, name: str) -> str:
    """Return a sysctl of a namespace."""
    return space.run(lambda: Path("/proc/sys", name).read_text().strip())


def tcp(sock: socket.socket) -> Port:
    return Port("tcp", port_of(sock))


def udp(sock: socket.socket) -> Port:
    return Port("udp", port_of(sock))


def connection(pod_end: socket.socket) -> Connection:
    return Connection(*pod_end.getsockname()[:2], *pod_end.getpeername()[:2])
