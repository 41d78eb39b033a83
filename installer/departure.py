"""What comes before files are taken away: who sleeps is woken, the daemon goes, and its helpers end.

The daemon is asked by its own command line, in a process: the library that speaks to it is not ours to import. Nothing is
started. What cannot be woken stops the uninstallation, for the memory of a container is in one place only.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from installer import sleepers
from installer.cluster import LABEL, Cluster, ClusterError
from installer.errors import AsleepError, InstallError
from installer.host import Host

RUN = "/run/zeropod"
DAEMON = f"{RUN}/zeropod.sock"
CGROUPS = "/sys/fs/cgroup"
SLICE = "zeropod.slice"
IDLE = ("criu-zygote", "zp-responder")
"""Names of the helpers that nobody waits for. Any other helper is at work for a container."""

FAIL = 62
"""The order on which a supervisor ends with 71 (checkpointer/supervisor.py): its container is started anew."""

GRACE = 60.0
"""Seconds more than asked for that the daemon's answer may take."""

LEFT = (
    "no daemon runs here that could take back labels status.zeropod.ctrox.dev/... and lowered requests of this node's pods; "
    'docs/operations.md ("Without a daemon") has the commands that find and remove them'
)
"""For people: pods are not ours to change without the daemon, which knows them."""

Say = Callable[[str], None]


@dataclasses.dataclass(frozen=True)
class Departure:
    """The way out.

    Attributes:
        host: The node.
        cluster: Where it is, None if that is not known.
        wait: Seconds for each step.
        force: Go on over what sleeps, and lose it.
        say: Tells people.
        clock: Seconds.
        pause: Waits so many seconds.
    """

    host: Host
    cluster: Cluster | None
    wait: float
    force: bool
    say: Say = print
    clock: Callable[[], float] = time.monotonic
    pause: Callable[[float], None] = time.sleep

    def go(self) -> None:
        """Do all of it.

        Raises:
            AsleepError: something sleeps and cannot be woken.
            InstallError: the daemon does not go.
        """
        self._nodes_processes()
        daemon = self.host.listener(DAEMON)
        if daemon is not None:
            self._retire()
        asleep = sleepers.find(self.host)
        if asleep and not self.force:
            raise self._refusal(asleep, runs=daemon is not None)
        self._unlabel()
        if daemon is not None:
            self._daemon_goes(daemon)
        elif self.cluster is not None and self.host.exists(RUN):
            self.say(LEFT)
        self._helpers_end()
        for one in sleepers.find(self.host) if self.force else []:
            self.say(f"lost: {one.title} ({one.how}) is started anew")
            with contextlib.suppress(ProcessLookupError):
                os.kill(one.pid, FAIL)

    def _nodes_processes(self) -> None:
        """See that pids are the node's: else what is killed would be somebody else."""
        if self.host.root == Path("/"):
            return
        try:
            ours, nodes = (os.stat(path).st_ino for path in ("/proc/self/ns/pid", self._init()))
        except OSError as error:
            raise InstallError(
                f"the node's init cannot be seen: {error}", "run as privileged"
            ) from error
        if ours != nodes:
            raise InstallError("this is not the node's PID namespace", "run with hostPID: true")

    def _init(self) -> Path:
        return self.host.real("/proc") / "1/ns/pid"

    def _retire(self) -> None:
        """Have the daemon wake all, put nothing to sleep any more, and leave the pods."""
        argv = [sys.executable, "-m", "checkpointer.cli", "--socket", str(self.host.real(DAEMON))]
        argv += ["retire", "--timeout", str(self.wait)]
        try:
            told = subprocess.run(
                argv, capture_output=True, text=True, timeout=self.wait + GRACE, check=False
            )
        except subprocess.TimeoutExpired:
            self.say(f"the daemon has not answered for {self.wait + GRACE:.0f} s")
            return
        for line in (told.stdout + told.stderr).splitlines():
            self.say(line)

    def _refusal(self, asleep: list[sleepers.Sleeper], *, runs: bool) -> AsleepError:
        who = sleepers.shown(asleep)
        lost = "give --force to lose their memory and have them started anew"
        if runs:
            return AsleepError(
                f"not all containers could be woken: {who}",
                f"see `zeropod why` and run this again, delete their pods, or {lost}",
            )
        return AsleepError(
            f"the daemon does not run, and without it nobody wakes {who}",
            f"bring it back (apply the manifests, label the node {LABEL}=true), delete their pods, or {lost}",
        )

    def _unlabel(self) -> None:
        """Take the node's label off, so that the DaemonSet's pod ends, and none comes back."""
        if self.cluster is None:
            return
        try:
            if self.cluster.labelled():
                self.cluster.unlabel()
                self.say(f"took the label {LABEL} off the node: the DaemonSet's pod ends")
        except ClusterError as error:
            self.say(f"the label {LABEL} was not taken off: {error}")

    def _daemon_goes(self, pid: int) -> None:
        """Wait for its end: it listens no more some time before."""

        def gone() -> bool:
            return not self.host.answers(DAEMON) and not (pid and Path(f"/proc/{pid}").exists())

        if not gone():
            self.say(f"waiting for the daemon to go, {self.wait:.0f} s at most")
        if not self._comes(gone) and not self.force:
            raise InstallError(
                "the daemon still runs, and would go on with what is taken away",
                f"take the label {LABEL} off this node or delete the DaemonSet, and run this again",
            )

    def _helpers_end(self) -> None:
        """End the helpers. Whoever is at work brings in memory of a container: that is waited for."""
        if self._at_work():
            self.say(f"waiting for pages of containers to come in, {self.wait:.0f} s at most")
        if not self._comes(lambda: not self._at_work()) and not self.force:
            raise AsleepError(
                f"pages of containers are still being brought in by {', '.join(self._at_work())}",
                "wait for that and run this again; --force would lose them",
            )
        for pid in self._helpers():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._comes(lambda: not self._helpers())

    def _at_work(self) -> list[str]:
        found = []
        for pid in self._helpers():
            with contextlib.suppress(OSError):
                name = Path(f"/proc/{pid}/comm").read_text(encoding="utf-8").strip()
                if name not in IDLE:
                    found.append(f"{name} (pid {pid})")
        return found

    def _helpers(self) -> set[int]:
        found: set[int] = set()
        for directory in slices(self.host):
            with contextlib.suppress(OSError):
                found.update(map(int, (directory / "cgroup.procs").read_text().split()))
        return found - {0}

    def _comes(self, true: Callable[[], bool]) -> bool:
        deadline = self.clock() + self.wait
        while not true():
            if self.clock() > deadline:
                return False
            self.pause(0.2)
        return True


def slices(host: Host) -> list[Path]:
    """Return our helpers' cgroup in each hierarchy."""
    root = host.real(CGROUPS)
    found = [root / SLICE, *sorted(root.glob(f"*/{SLICE}"))]
    return [path for path in found if path.is_dir() and not path.parent.is_symlink()]
