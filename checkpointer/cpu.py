"""How much CPU a container uses: what works without a word on the network is not idle."""

import dataclasses
from pathlib import Path

from checkpointer import cgroups

LEAST = 0.5
"""Seconds that a measurement takes; over less, a moment of work looks like much."""

SHARE = 0.5
"""Of a CPU limit. A container that is throttled never uses more cores than it is given; half of them is work."""


@dataclasses.dataclass(frozen=True, slots=True)
class Usage:
    """What a container's cgroup says.

    Attributes:
        seconds: CPU time used so far.
        limit: Cores that it may use, None without a limit.
    """

    seconds: float
    limit: float | None


@dataclasses.dataclass(slots=True)
class Meter:
    """Cores used on average from one look to the next.

    Attributes:
        busy: Monotonic seconds of the last measurement that was above the threshold; 0 = none was.
        words: What was measured then, for people.
        measured: Monotonic seconds of the last measurement.
    """

    busy: float = 0.0
    words: str = ""
    measured: float = 0.0
    _at: float = 0.0
    _seconds: float = 0.0

    def look(self, now: float, usage: Usage, *, threshold: float, since: float) -> None:
        """Measure.

        Args:
            now: Monotonic seconds.
            usage: Read now.
            threshold: Cores that an idle container may use.
            since: Nothing from before this counts: a restore is charged to the container.
        """
        elapsed = now - self._at
        begun = self._at > since
        if begun and elapsed < LEAST:
            return
        if begun:
            self.measured = now
            cores = (usage.seconds - self._seconds) / elapsed
            if usage.limit is not None:
                threshold = min(threshold, SHARE * usage.limit)
            if cores > threshold:
                self.busy = now
                self.words = f"it used {cores:.2g} CPU cores, idle it uses at most {threshold:.2g} (cpu-threshold)"
        self._at, self._seconds = now, usage.seconds


def usage(pid: int) -> Usage | None:
    """Read the usage of the cgroup that `pid` is in, with the lowest limit above it; None where no one accounts for it.

    Raises:
        ProcessLookupError: it has gone.
    """
    groups = cgroups.of(pid)
    accounted, governed = groups.controller("cpuacct"), groups.controller("cpu")
    seconds = _seconds(accounted) if accounted is not None else None
    if seconds is None:
        return None
    found = [_limit(path) for path in cgroups.ancestors(governed)]
    return Usage(seconds, min((limit for limit in found if limit is not None), default=None))


def _seconds(directory: Path) -> float | None:
    """Read cpuacct.usage (version 1, nanoseconds) or cpu.stat (version 2, microseconds)."""
    try:
        return int((directory / "cpuacct.usage").read_text()) / 1e9
    except FileNotFoundError:
        pass
    try:
        lines = dict(line.split() for line in (directory / "cpu.stat").read_text().splitlines())
        return int(lines["usage_usec"]) / 1e6
    except (FileNotFoundError, KeyError):
        return None


def _limit(directory: Path) -> float | None:
    """Read cpu.cfs_quota_us and cpu.cfs_period_us (version 1) or cpu.max (version 2)."""
    try:
        quota, period = (directory / "cpu.max").read_text().split()
    except FileNotFoundError:
        try:
            quota, period = (
                (directory / name).read_text().strip()
                for name in ("cpu.cfs_quota_us", "cpu.cfs_period_us")
            )
        except FileNotFoundError:
            return None
    return None if quota in {"max", "-1"} else int(quota) / int(period)
