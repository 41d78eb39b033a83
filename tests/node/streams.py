"""The runtime's streaming server, as `kubectl attach`, `exec -i` and `port-forward` talk to it: by WebSocket.

The first byte of each message is its channel (k8s.io/apimachinery pkg/util/httpstream/wsstream, `v4.channel.k8s.io`).
"""

from __future__ import annotations

import contextlib
import threading
from collections import defaultdict
from typing import Self

from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from dev import cri

PROTOCOL = "v4.channel.k8s.io"

STDIN, STDOUT, STDERR, ERROR = range(4)

DATA, PROBLEM = 0, 1
"""Of port-forward, for its first port; each begins with the port's number in two bytes."""


class Stream:
    """One connection to the streaming server; what comes is collected by channel."""

    def __init__(self, url: str) -> None:
        # The runtime gives an address for HTTP.
        self._stack = contextlib.ExitStack()
        self._socket = self._stack.enter_context(
            connect(url.replace("http", "ws", 1), subprotocols=[PROTOCOL], ping_interval=None)
        )
        self._changed = threading.Condition()
        self._heard: dict[int, bytes] = defaultdict(bytes)
        self._ended = False
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @classmethod
    def attach(cls, container: cri.Container, *, stdin: bool = False) -> Self:
        """`kubectl attach`."""
        answer = container.runtime.call(
            "Attach", container_id=container.id, stdin=stdin, stdout=True, stderr=True
        )
        return cls(answer.url)

    @classmethod
    def exec(cls, container: cri.Container, *command: str) -> Self:
        """`kubectl exec -i`."""
        answer = container.runtime.call(
            "Exec", container_id=container.id, cmd=command, stdin=True, stdout=True, stderr=True
        )
        return cls(answer.url)

    @classmethod
    def forward(cls, pod: cri.Pod, port: int) -> Self:
        """`kubectl port-forward`, of one connection."""
        answer = pod.runtime.call("PortForward", pod_sandbox_id=pod.id, port=[port])
        stream = cls(f"{answer.url}?port={port}")
        for channel in (DATA, PROBLEM):
            assert stream.take(channel, 2) == port.to_bytes(2, "little")
        return stream

    def send(self, data: bytes, channel: int = STDIN) -> None:
        """Send on a channel."""
        self._socket.send(bytes([channel]) + data)

    def take(self, channel: int, size: int, seconds: float = 20.0) -> bytes:
        """Take what has come on a channel, when there is so much of it; less if the stream has ended."""
        with self._changed:
            enough = self._changed.wait_for(
                lambda: len(self._heard[channel]) >= size or self._ended, seconds
            )
            assert enough, f"channel {channel}: only {self._heard[channel]!r}"
            taken, self._heard[channel] = self._heard[channel][:size], self._heard[channel][size:]
            return taken

    def line(self, channel: int = STDOUT, seconds: float = 20.0) -> str:
        """The next line on a channel, without its end."""
        text = b""
        while not text.endswith(b"\n"):
            more = self.take(channel, 1, seconds)
            assert more, f"the stream has ended after {text!r}"
            text += more
        return text.decode().rstrip("\n")

    @property
    def ended(self) -> bool:
        """Whether the server has closed it."""
        return self._ended

    def _read(self) -> None:
        try:
            for message in self._socket:
                assert isinstance(message, bytes)
                with self._changed:
                    self._heard[message[0]] += message[1:]
                    self._changed.notify_all()
        except ConnectionClosed:
            pass
        finally:
            with self._changed:
                self._ended = True
                self._changed.notify_all()

    def close(self) -> None:
        """Hang up."""
        self._stack.close()
        self._reader.join(30)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
