"""The node's plugin process, as tests watch and end it."""

from __future__ import annotations

import os
import shlex
import signal
from pathlib import Path

from dev import cri


class Plugin:
    """The node's plugin process and what it has logged since the test began."""

    LOG = Path("/var/log/node/plugin.log")
    HOLD = Path("/run/node/hold/plugin")

    def __init__(self) -> None:
        self.mark = self.LOG.stat().st_size

    def log(self) -> str:
        """Text since the test began."""
        with self.LOG.open("rb") as file:
            file.seek(self.mark)
            return file.read().decode()

    def said(self, event: str, **fields: object) -> dict[str, str]:
        """Wait for a line with this event and these fields, and return all its fields."""
        found: list[dict[str, str]] = []

        def there() -> bool:
            for line in self.log().splitlines():
                words = shlex.split(line)
                if len(words) > 2 and words[2] == event:
                    pairs = dict(word.split("=", 1) for word in words[3:])
                    if all(pairs.get(key) == str(value) for key, value in fields.items()):
                        found.append(pairs)
            return bool(found)

        cri.until(there, 30)
        return found[-1]

    def kill(self) -> None:
        """SIGKILL; PID 1 of the node starts it again."""
        os.kill(int(Path("/run/node/plugin.pid").read_text()), signal.SIGKILL)

    def away(self) -> None:
        """Kill it and keep it from being started."""
        self.HOLD.touch()
        pid = int(Path("/run/node/plugin.pid").read_text())
        os.kill(pid, signal.SIGKILL)
        cri.until(lambda: not Path(f"/proc/{pid}").exists(), 30)

    def back(self) -> None:
        """Let it be started again and wait until it is connected."""
        self.mark = self.LOG.stat().st_size
        self.HOLD.unlink(missing_ok=True)
        self.said("nri.synchronized")
