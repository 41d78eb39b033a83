"""Hears the first packet: the event loop's eye on the TAP of a container that is not awake."""

import asyncio
from collections.abc import Callable

from checkpointer.container import Container


class Doorbell:
    """Reads one container's TAP while it is asleep or waking.

    Args:
        container: Whose hold is read.
        rung: Called with the kind of the first packet that wants an answer.
    """

    def __init__(self, container: Container, rung: Callable[[str], None]) -> None:
        self._container = container
        self._rung = rung
        self._loop = asyncio.get_running_loop()
        self._reading: int | None = None

    def listen(self) -> None:
        """Hear what comes in from now on."""
        hold = self._container.hold
        if hold is not None and self._reading is None:
            self._reading = hold.fd
            self._loop.add_reader(hold.fd, self.check)

    def deafen(self) -> None:
        """Hear nothing more; before the TAP is closed, whose descriptor may be somebody else's next."""
        if self._reading is not None:
            self._loop.remove_reader(self._reading)
            self._reading = None

    def check(self) -> None:
        """Take what has come in."""
        hold = self._container.hold
        cause = hold.receive() if hold is not None else None
        if cause is not None:
            self._rung(cause.kind)
