"""Makes sockets in the pods' networks for a responder that has no rights left for it.

The responder reads what the kubelet and, where it passes something on, what an application sends, TLS included. It does
that as nobody in particular. To enter a network takes all of root's rights: that is left to this process, which reads
nothing of anybody's.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket

from bpf import syscall

_SIOCGSKNS = 0x894C  # linux/sockios.h
_LINE = 3
_MANY = 4096


class Maker:
    """Forks it, before there is any thread; it ends with the process that made it."""

    def __init__(self) -> None:
        self._line, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        if os.fork() == 0:
            try:
                os.dup2(its.fileno(), _LINE)
                os.closerange(_LINE + 1, _MANY)
                _serve(socket.socket(fileno=_LINE))
            finally:
                os._exit(0)
        its.close()

    def fileno(self) -> int:
        """Readable when it has ended."""
        return self._line.fileno()

    def beside(self, sock: socket.socket) -> socket.socket:
        """Make another socket in a socket's network namespace, of its family.

        Raises:
            OSError: that is gone.
        """
        socket.send_fds(self._line, [b"?"], [sock.fileno()])
        _, fds, _, _ = socket.recv_fds(self._line, 1, 1)
        if not fds:
            raise ConnectionAbortedError("the pod's network cannot be entered")
        return socket.socket(fileno=fds[0])


def _serve(line: socket.socket) -> None:
    home = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    while True:
        asked, fds, _, _ = socket.recv_fds(line, 1, 1)
        if not asked:
            return
        made = []
        with contextlib.suppress(OSError), socket.socket(fileno=fds[0]) as sock:
            made.append(_beside(sock, home))
        socket.send_fds(line, [b"!"], [one.fileno() for one in made])
        for one in made:
            one.close()


def _beside(sock: socket.socket, home: int) -> socket.socket:
    namespace = fcntl.ioctl(sock, _SIOCGSKNS)
    try:
        syscall.setns(namespace, syscall.CLONE_NEWNET)
        return socket.socket(sock.family)
    finally:
        os.close(namespace)
        # To stay would keep the pod's network when the pod has gone.
        syscall.setns(home, syscall.CLONE_NEWNET)
