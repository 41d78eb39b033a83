"""Writing a changed configuration, restarting containerd, and going back when it does not come up."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import subprocess
import time
from collections.abc import Callable, Sequence

from installer import containerd, layouts
from installer.containerd import BACKUP, Change
from installer.errors import InstallError
from installer.host import Host
from installer.journal import Journal
from installer.layouts import Layout

STARTED = ("active", "reloading", "activating", "failed")
"""What `systemctl is-active` prints of a unit that is meant to run on this node."""

RESTART = 300.0
"""Seconds for a restart: that of a k3s server has a whole control plane in it."""

AGAIN = 3600.0
"""Seconds before what has failed is tried again unchanged: a pod that fails is started again every few minutes, and each
try restarts containerd twice, of k3s the whole of Kubernetes."""

Clock = Callable[[], float]
Pause = Callable[[float], None]


@dataclasses.dataclass(frozen=True)
class Runtime:
    """containerd on a node.

    Attributes:
        host: The node.
        layout: Its layout.
        journal: Where is written down what is under way.
        command: A shell command that restarts containerd, and does not return before the old one has ended; "" for
            systemctl.
        timeout: Seconds for containerd to come up.
        clock: Seconds.
        pause: Waits so many seconds.
        date: Seconds since the epoch.
    """

    host: Host
    layout: Layout
    journal: Journal
    command: str = ""
    timeout: float = 60.0
    clock: Clock = time.monotonic
    pause: Pause = time.sleep
    date: Clock = time.time

    def install(self, changes: Sequence[Change], nri: str) -> list[str]:
        """Write files, restart what reads them if anything has changed, and see that it works.

        Args:
            changes: What to write.
            nri: NRI's socket, which has to answer afterwards.

        Returns:
            What was done, for people.

        Raises:
            InstallError: containerd did not come up with it; the files are as before, and it runs with them again.
        """
        if not changes and self.journal.pending is None:
            self._answers(nri)
            return []
        again = self.journal.pending is not None
        what = _digest(changes)
        if not again and (problem := self.journal.failed(what, self.date() - AGAIN)):
            raise InstallError(
                f"nothing was changed, since containerd did not work with this configuration less than an hour ago: {problem}",
                f"mend that; to have it tried again before that hour is over, remove {self.journal.failure}",
            )
        self.journal.begin((change.path, change.before) for change in changes)
        done = []
        try:
            for change in changes:
                self._keep(change)
                self._put(change.path, change.after)
                done.append(f"{change.what}: {change.path}")
            self._prove()
            self._units()
            again = True
            done += self._restart()
            self._wait([self.layout.socket, nri])
        except InstallError as error:
            told = self._back(error, restart=again)
            if again:
                self.journal.fail(what, told.problem, self.date())
            raise told from error
        self.journal.end()
        return done

    def uninstall(self, changes: Sequence[Change]) -> list[str]:
        """Write files as they were, and restart what reads them. What does not run is not waited for.

        Raises:
            InstallError: containerd did not come up with it; the files are as before.
        """
        if not changes and self.journal.pending is None:
            return []
        runs = self.journal.pending is not None or self.host.answers(self.layout.socket)
        self.journal.begin((change.path, change.before) for change in changes)
        done = []
        try:
            for change in changes:
                self._put(change.path, change.after)
                done.append(f"{change.what}: {change.path}")
            if runs:
                done += self._restart()
                self._wait([self.layout.socket])
        except InstallError as error:
            raise self._back(error, restart=True) from error
        self.journal.end()
        return done

    def _keep(self, change: Change) -> None:
        """Leave what a file said beside it, once: as it was before our first change."""
        self.journal.making(*self.host.missing(change.path))
        path = change.path + BACKUP
        if change.before is not None and not self.host.exists(path):
            self.host.write(path, change.before, mode=self.host.mode(change.path))

    def _put(self, path: str, text: str | None) -> None:
        if text is None:
            self.host.remove(path)
        else:
            self.host.write(path, text)

    def _prove(self) -> None:
        """Ask containerd itself what it makes of the files, before it has to live with them."""
        program = layouts.program(self.host, self.layout, "containerd")
        if not program:
            return
        told = self.host.run(program, "--config", self.layout.config, "config", "dump")
        wrong = told.stderr.strip() if told.returncode else containerd.problem(told.stdout)
        if wrong:
            raise InstallError(
                f"containerd reads its configuration otherwise than expected: {wrong}",
                "look at `containerd config dump` and at the files that its configuration imports",
            )

    def _restart(self) -> list[str]:
        """Restart the units of a layout that run.

        Raises:
            InstallError: none of them runs, or one does not start.
        """
        if self.command:
            result = self.host.run("sh", "-c", self.command, timeout=RESTART)
            if result.returncode:
                raise InstallError(
                    f"`{self.command}` failed: {result.stderr.strip()}", "look at --restart"
                )
            return ["restarted containerd"]
        running = self._units()
        for unit in running:
            self._systemctl(
                "reset-failed", unit
            )  # else it may have failed too often to be started
            result = self._systemctl("restart", unit)
            if result.returncode:
                tail = self.host.run(
                    "journalctl", "-u", unit, "-n", "15", "--no-pager", "-o", "cat"
                )
                raise InstallError(
                    f"systemctl restart {unit}: {result.stderr.strip()}\n{tail.stdout}",
                    "see above",
                )
        return [f"restarted {unit}" for unit in running]

    def _units(self) -> list[str]:
        """Return those of a layout that run; none where a command restarts containerd.

        Raises:
            InstallError: there are none.
        """
        if self.command:
            return []
        if not self.host.exists("/run/systemd/system"):
            raise InstallError(
                "this node has no systemd", "say how containerd is restarted there (--restart)"
            )
        units = self.layout.units
        running = [unit for unit in units if self._started(unit)]
        if not running:
            raise InstallError(
                f"none of the units {', '.join(units)} runs",
                "say how containerd is restarted on this node (--restart)",
            )
        return running

    def _started(self, unit: str) -> bool:
        told = self._systemctl("is-active", unit)
        return told.returncode == 0 or told.stdout.strip() in STARTED

    def _systemctl(self, *words: str) -> subprocess.CompletedProcess[str]:
        return self.host.run("systemctl", *words, timeout=RESTART)

    def _wait(self, wanted: Sequence[str]) -> None:
        deadline = self.clock() + self.timeout
        while silent := [path for path in wanted if not self.host.answers(path)]:
            if self.clock() > deadline:
                raise InstallError(
                    f"nobody answers at {' and '.join(silent)} {self.timeout:.0f} s after the restart",
                    "see containerd's log",
                )
            self.pause(0.2)
        if broken := self._broken():
            raise InstallError(
                f"containerd runs without {' and '.join(broken)}",
                "see containerd's log",
            )

    def _broken(self) -> list[str]:
        """Return which plugins did not start: a containerd without its CRI listens all the same."""
        program = layouts.program(self.host, self.layout, "ctr")
        if not program:
            return []
        told = self.host.run(program, "-a", self.layout.socket, "plugins", "ls")
        return containerd.broken(told.stdout)

    def _answers(self, nri: str) -> None:
        if not self.host.answers(nri):
            raise InstallError(
                f"NRI is enabled in containerd's configuration, and nobody answers at {nri}",
                "restart containerd: somebody has changed its configuration and has not",
            )

    def _back(self, error: InstallError, *, restart: bool) -> InstallError:
        """Put everything back as it was, and say how that went."""
        before = self.journal.pending or {}
        for path in reversed(before):
            if self.host.read(path) != before[path]:  # what was not written need not be writable
                self._put(path, before[path])
        restored = "the old one is back"
        if restart:
            try:
                with contextlib.suppress(InstallError):  # systemd's: it may still come up
                    self._restart()
                self._wait([self.layout.socket])
            except InstallError as second:
                restored = (
                    f"the old one is back, and it does not run with that either ({second.problem})"
                )
        self.journal.end()
        return InstallError(
            f"containerd does not work with its new configuration, {restored}: {error.problem}",
            error.remedy,
        )


def _digest(changes: Sequence[Change]) -> str:
    said = json.dumps([(change.path, change.before, change.after) for change in changes])
    return hashlib.sha256(said.encode()).hexdigest()
