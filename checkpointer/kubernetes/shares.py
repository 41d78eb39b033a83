"""The share of a busy CPU that a container wakes with.

Its requests are next to nothing until the API server and the kubelet have given them back, which takes a second, or as
long as the API server is away; its share of the CPU is what the kubelet makes of them. So the daemon writes it itself, for
the container and its pod. The kubelet writes the same, or what it thinks right, when it comes to it.

What it has asked for is taken from what this daemon has itself lowered, never from the pod's annotations: whoever makes a
pod writes those at will, and no quota, limit range or scheduler has seen what they say.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path

from checkpointer import cgroups
from checkpointer.errors import CheckpointerError
from checkpointer.kubernetes.pods import Pod, amount

log = logging.getLogger(__name__)

_LEAST, _MOST = 2, 262144  # cpu.shares, cgroup v1 (kernel/sched/core.c: MIN_SHARES, MAX_SHARES)


def lift(pod: Pod, lowered: Mapping[str, str], container: str, pid: int) -> None:
    """Give a container that wakes the share of what it has asked for before it fell asleep; never less than it has.

    Args:
        pod: As the API server knows it.
        lowered: CPU that its containers asked for when this daemon lowered that, by name.
        container: Who wakes.
        pid: Its PID 1.
    """
    if (own := _cores(lowered.get(container))) is None:
        return
    others = (
        _cores(lowered.get(each.name) or each.requests.get("cpu")) for each in pod.containers
    )
    try:
        directory = cgroups.of(pid).controller("cpu")
        if directory is not None:
            _raise(directory, own)
            _raise(directory.parent, sum((each or Decimal(0) for each in others), Decimal(0)))
    except (OSError, CheckpointerError) as error:
        log.info("shares.kept", extra={"pod": pod.title, "error": str(error)})


def _cores(text: str | None) -> Decimal | None:
    """CPU that is asked for, at most what a share can say: to make an int of 1e999999 takes the interpreter a minute."""
    found = amount(text or "")
    return None if found is None else min(found, Decimal(_MOST))


def _raise(directory: Path, cores: Decimal) -> None:
    shares = min(_MOST, max(_LEAST, int(cores * 1024)))
    path, wanted = directory / "cpu.shares", shares
    if not path.exists():
        # KEP-2254; newer runtimes give small requests more, which the kubelet's own change then does.
        path, wanted = directory / "cpu.weight", 1 + (shares - _LEAST) * 9999 // (_MOST - _LEAST)
    if int(path.read_text()) < wanted:
        path.write_text(str(wanted))
