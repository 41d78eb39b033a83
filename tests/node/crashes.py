"""What tests that kill processes at every moment have in common."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import threading
from collections.abc import Callable, Iterator

import grpc
from node.sleepers import Sleeper

from checkpointer import settings
from dev import cri
from ttrpc.errors import TtrpcError

Pods = Callable[..., cri.Pod]

STATE = settings.Settings().state_dir
STAGING, FAILED = STATE / "staging", STATE / "failed"

#: About how long a sleep and a wake take here, in seconds: faults are spread over that.
SLEEP_SPAN, WAKE_SPAN = 0.18, 0.06

LARGE = "import hashlib, random\nballast = random.Random(1).randbytes(300 << 20)"
DIGEST = "hashlib.md5(ballast).hexdigest()"


def moments(count: int, span: float) -> Iterator[float]:
    """So many delays over a span of seconds, each at a random place of its share; different in each run."""
    for index in range(count):
        yield (index + random.random()) * span / count


def in_background(function: Callable[[], object]) -> threading.Thread:
    """Run something whose outcome is not the point: that of the fault which meets it is."""

    def run() -> None:
        with contextlib.suppress(TtrpcError, OSError, grpc.RpcError):
            function()

    thread = threading.Thread(target=run)
    thread.start()
    return thread


def kill(pid: int) -> bool:
    """SIGKILL; False if it had ended."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


def damage(one: Sleeper) -> Callable[[], None]:
    """Make a sleeping container's image unusable; returns what makes it good again."""
    [core] = sorted(one.image().glob("core-*.img"))[:1]
    good = core.read_bytes()
    core.write_bytes(good[: len(good) // 2])
    return lambda: (core.write_bytes(good), None)[1]
