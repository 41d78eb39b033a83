"""A way out of a pod for packets of ours: raw sockets, which need neither a route nor a neighbour from us."""

from __future__ import annotations

import contextlib
import socket


class Raw:
    """Send-only: IPPROTO_RAW takes whole IP packets and receives none (raw(7))."""

    def __init__(self) -> None:
        """Open the sockets in the thread's network namespace; they stay there."""
        self._sockets: dict[int, socket.socket] = {}
        for family in (socket.AF_INET, socket.AF_INET6):
            with contextlib.suppress(OSError):  # without IPv6 there is nobody to send it to
                sock = socket.socket(family, socket.SOCK_RAW, socket.IPPROTO_RAW)
                sock.setblocking(False)
                self._sockets[family] = sock

    def send(self, packet: bytes, target: bytes) -> bool:
        """Send an IP packet to an address of 4 or 16 bytes; False when the kernel does not take it."""
        family = socket.AF_INET if len(target) == 4 else socket.AF_INET6
        sock = self._sockets.get(family)
        if sock is None:
            return False
        try:
            sock.sendto(packet, (socket.inet_ntop(family, target), 0))
        except OSError:
            return False
        return True

    def close(self) -> None:
        """Close the sockets; they would keep the namespace alive."""
        for sock in self._sockets.values():
            sock.close()
        self._sockets.clear()
