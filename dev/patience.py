"""How long anything may take: seconds as on an idle machine, times what this machine is slower.

Standard library only: tests, the demo and `dev/lib` all wait by it. `ZEROPOD_SLOW` is the factor; an
emulated machine sets it. What lasts a set time (a scaledown, a pause that proves that nothing comes)
is not waiting and is not scaled.
"""

from __future__ import annotations

import os
import time
from typing import Callable

VARIABLE = "ZEROPOD_SLOW"

#: How many times slower than an idle machine this one may be.
FACTOR = float(os.environ.get(VARIABLE) or 1)


def seconds(fast: float) -> float:
    """What `fast` seconds of an idle machine may take here: for time limits of sockets and programs."""
    return fast * FACTOR


def until(done: Callable[[], object], fast: float = 30.0, *, pause: float = 0.02) -> None:
    """Asks again and again.

    Args:
        done: whether it is so.
        fast: seconds after which an idle machine has failed.
        pause: seconds between two questions.

    Raises:
        TimeoutError: it never became true.
    """
    deadline = time.monotonic() + seconds(fast)
    while not done():
        if time.monotonic() > deadline:
            message = "not so after %g s" % seconds(fast)
            raise TimeoutError(message)
        time.sleep(pause)
