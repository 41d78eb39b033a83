"""The event loop's part in a sleeping container's network: hears the first packet, sends the keepalives that are due."""

import asyncio
from collections.abc import Callable

from checkpointer.container import Container


class Doorbell:
    """Reads one container's TAP while it is asleep or waking, and keeps its connections alive.

    Args:
        container: Whose hold is read.
        rung: Called with the kind of the first packet that wants an answer.
    """

    def __init__(self, container: Container, rung: Callable[[str], None]) -> None:
        self._container = container
        self._rung = rung
        self._loop = asyncio.get_running_loop()
        self._reading: int | None = None
        self._timer: asyncio.TimerHandle | None = None

    def listen(self) -> None:
        """Hear what comes in from now on."""
        hold = self._container.hold
        if hold is not None and self._reading is None:
            self._reading = hold.fd
            self._loop.add_reader(hold.fd, self.check)
            self._keep_alive()

    def deafen(self) -> None:
        """Hear nothing more; before the TAP is closed, whose descriptor may be somebody else's next."""
        if self._reading is not None:
            self._loop.remove_reader(self._reading)
            self._reading = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _keep_alive(self) -> None:
        """Send what the application's own sockets would send by now, and come back when there is more."""
        self._timer = None
        hold = self._container.hold
        seconds = hold.keep_alive() if hold is not None else None
        if seconds is not None:
            self._timer = self._loop.call_later(seconds, self._keep_alive)

    def check(self) -> None:
        """Take what has come in."""
        hold = self._container.hold
        cause = hold.receive() if hold is not None else None
        if cause is not None:
            self._rung(cause.kind)
