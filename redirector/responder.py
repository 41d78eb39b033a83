"""Answers the kubelet for applications that sleep: `python3 -m redirector.responder CONTROL CERTIFICATE`.

A process of its own, because probes are answered while the daemon is away: a liveness probe that fails has its container
restarted. It holds a listener in the network namespace of each pod in which something sleeps; the programs hand it the
kubelet's connections (`answering` in bpf/datapath.c). What it cannot answer it passes on: it connects to the application
inside the pod, which wakes that like any client.

All that it needs is imported when it starts: the files that it was started from may go while it runs.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import resource
import signal
import socket
import ssl
import struct
import sys
from typing import Any

import h2.exceptions

from bpf import syscall
from redirector.conversation import Conversation
from redirector.maker import Maker
from redirector.probes import Rules

log = logging.getLogger("responder")

LINGER = 3.0
"""Seconds for which a listener is kept that nobody needs any more: handshakes end, and who sleeps again soon has it."""

MOST = 4096
"""Connections at a time."""

NOBODY = 65530
"""A user and group that is nobody else's: above systemd's dynamic users, below nobody."""

_ORDER = 1 << 16  # bytes, at the most
_RESET = struct.pack("ii", 1, 0)  # struct linger: close(2) resets


class Place:
    """A pod: its listeners, and what to say there."""

    def __init__(self, listeners: list[socket.socket]) -> None:
        self.listeners = listeners
        self.port = int(listeners[0].getsockname()[1])
        self.rules: dict[int, Rules] = {}
        self.timer: asyncio.TimerHandle | None = None

    def rules_of(self, port: int) -> Rules:
        """What to say on a port of the application's."""
        return self.rules.get(port, Rules())

    def close(self) -> None:
        """Listen no more; connections go on."""
        for listener in self.listeners:
            listener.close()


class Responder:
    """All places of a node."""

    def __init__(
        self, control: socket.socket, certificate: ssl.SSLContext | None, maker: Maker
    ) -> None:
        self._control = control
        self._maker = maker
        self._certificate = certificate
        self._loop = asyncio.get_running_loop()
        self._places: dict[str, Place] = {}
        self._open: set[asyncio.Task[None]] = set()
        self._retired = False
        self._over = asyncio.Event()
        self._loop.add_reader(control, self._asked)
        # Nothing could be passed on without it; a new responder has a new one.
        self._loop.add_reader(maker, self._over.set)

    async def run(self) -> None:
        """Serve until it is told to go and every connection is over."""
        await self._over.wait()

    # --- control ---

    def _asked(self) -> None:
        client, _ = self._control.accept()
        with client, contextlib.suppress(OSError):
            client.settimeout(1.0)
            data, fds, _, _ = socket.recv_fds(client, _ORDER, 8)
            try:
                answer = self._obey(json.loads(data), fds)
            except (OSError, ValueError, KeyError) as error:
                log.exception("refused")
                answer = {"error": str(error)}
            client.send(json.dumps(answer).encode())

    def _obey(self, order: dict[str, Any], fds: list[int]) -> dict[str, Any]:
        match order["do"]:
            case "port":
                return {"pid": os.getpid(), "port": self._again(order["pod"])}
            case "listen":
                return {"port": self._listen(order["pod"], fds)}
            case "rules":
                place = self._places.get(order["pod"])
                if place is not None:
                    for rules in order["rules"]:
                        place.rules |= dict.fromkeys(rules["ports"], Rules.decoded(rules))
            case "leave":
                self._leave(order["pod"])
            case "keep":
                for pod in set(self._places) - set(order["pods"]):
                    self._leave(pod)
            case "retire":
                self._retired = True
                self._loop.remove_reader(self._control)
                for pod in list(self._places):
                    self._leave(pod)
                self._loop.call_later(LINGER, self._see)
            case _:
                pass  # of another version
        return {"pid": os.getpid()}

    def _again(self, pod: str) -> int:
        """The port of a pod where it still listens, 0 for none."""
        place = self._places.get(pod)
        if place is None:
            return 0
        if place.timer is not None:
            place.timer.cancel()
            place.timer = None
        return place.port

    def _listen(self, pod: str, fds: list[int]) -> int:
        before = self._places.pop(pod, None)
        if before is not None:
            self._forget(before)
        place = Place([socket.socket(fileno=fd) for fd in fds])
        self._places[pod] = place
        for listener in place.listeners:
            listener.setblocking(False)
            self._loop.add_reader(listener, self._accept, listener, place)
        return place.port

    def _leave(self, pod: str) -> None:
        place = self._places.get(pod)
        if place is not None and place.timer is None:
            place.timer = self._loop.call_later(LINGER, self._left, pod)

    def _left(self, pod: str) -> None:
        self._forget(self._places.pop(pod))
        self._see()

    def _forget(self, place: Place) -> None:
        for listener in place.listeners:
            self._loop.remove_reader(listener)
            self._accept(listener, place)  # what waits there would be reset
        if place.timer is not None:
            place.timer.cancel()
        place.close()

    def _see(self) -> None:
        if self._retired and not self._open and not self._places:
            self._over.set()

    # --- connections ---

    def _accept(self, listener: socket.socket, place: Place) -> None:
        while True:
            try:
                sock, _ = listener.accept()
            except OSError:
                return
            if len(self._open) >= MOST:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                sock.close()
                continue
            sock.setblocking(False)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            task = self._loop.create_task(self._converse(sock, place))
            self._open.add(task)
            task.add_done_callback(self._done)

    async def _converse(self, sock: socket.socket, place: Place) -> None:
        try:
            await Conversation(sock, place.rules_of, self._certificate, self._maker).hold()
        except (OSError, TimeoutError, h2.exceptions.ProtocolError) as error:
            log.debug("ended: %s", error)
        except Exception:
            log.exception("broke")
        finally:
            sock.close()

    def _done(self, task: asyncio.Task[None]) -> None:
        self._open.discard(task)
        self._see()


def _context(certificate: str) -> ssl.SSLContext | None:
    """A TLS server's context; None without a certificate, and then TLS is passed on."""
    if not certificate:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    context.set_alpn_protocols(["http/1.1"])
    return context


async def _serve(control: socket.socket, certificate: ssl.SSLContext | None, maker: Maker) -> None:
    await Responder(control, certificate, maker).run()


def _become_nobody() -> None:
    os.setgroups([])
    os.setresgid(NOBODY, NOBODY, NOBODY)
    os.setresuid(NOBODY, NOBODY, NOBODY)  # all capabilities go with it
    syscall.prctl(syscall.PR_SET_NO_NEW_PRIVS, 1)


def main(argv: list[str]) -> int:
    """Run until told to go; SIGTERM is somebody else's, and ends it at once."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    syscall.prctl(syscall.PR_SET_NAME, b"zp-responder")
    sys.stdin.read()  # ends when the daemon has found us a place, also for a child of ours
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    # Each pod takes two, and it may have been given 1024.
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    maker = Maker()
    certificate = _context(argv[2] if len(argv) > 2 else "")
    _become_nobody()
    with socket.socket(fileno=int(argv[1])) as control:
        control.setblocking(False)
        asyncio.run(_serve(control, certificate, maker))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
