"""Could this daemon wake what sleeps, and is it alive at all? Asked by the kubelet's probes.

`/readyz` looks at what a wake would need at this moment; `/healthz` only at what nothing but a new daemon would mend. A
container whose own image or limits are the trouble is no answer to either: `zeropod why` and the metrics tell of it.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from checkpointer import errors
from checkpointer.engine import Engine
from checkpointer.zygote import Zygotes
from redirector.errors import RedirectorError

log = logging.getLogger(__name__)

PATIENCE = 5.0
"""Seconds for the event loop to answer; it never works for as long as that."""

HOLDS = 5.0
"""Seconds for which a finding holds that took more than a look; as often as the kubelet asks."""


class Unfit(errors.CheckpointerError):
    """A check was not passed."""


@dataclasses.dataclass(frozen=True, slots=True)
class Check:
    """One thing that has to be well.

    Attributes:
        name: A word for it.
        look: Raises what is wrong, as a sentence; from any thread.
    """

    name: str
    look: Callable[[], None]


@dataclasses.dataclass(frozen=True, slots=True)
class Finding:
    """What a check found; the reason is "" if all is well."""

    name: str
    reason: str = ""


class Health:
    """The checks of one daemon.

    Args:
        live: Without these a new daemon is needed.
        ready: Without these nothing can be woken, besides.
    """

    def __init__(self, live: Sequence[Check], ready: Sequence[Check]) -> None:
        self._checks = {"/healthz": live, "/readyz": [*live, *ready]}
        self._said: dict[str, str] = {}

    def answer(self, path: str) -> tuple[bool, str] | None:
        """Say whether all is well and what was found, a line each; None if the path is no question."""
        checks = self._checks.get(path)
        if checks is None:
            return None
        findings = [_finding(check) for check in checks]
        self._note(findings)
        lines = [
            f"[-]{found.name} failed: {found.reason}" if found.reason else f"[+]{found.name} ok"
            for found in findings
        ]
        well = not any(found.reason for found in findings)
        return well, "\n".join([*lines, f"{path[1:]} {'passed' if well else 'failed'}", ""])

    def passes(self, path: str) -> bool:
        """Whether all is well that is asked by a path, without a word to anybody."""
        return not any(_finding(check).reason for check in self._checks[path])

    def _note(self, findings: Sequence[Finding]) -> None:
        """Log what has changed; a probe comes every few seconds."""
        for found in findings:
            if self._said.get(found.name, "") == found.reason:
                continue
            self._said[found.name] = found.reason
            if found.reason:
                log.warning("health.failed", extra={"check": found.name, "reason": found.reason})
            else:
                log.info("health.mended", extra={"check": found.name})


def _finding(check: Check) -> Finding:
    try:
        check.look()
    except (errors.CheckpointerError, RedirectorError, OSError) as error:
        return Finding(check.name, " ".join(errors.reason_of(error).split()))
    except Exception as error:
        log.exception("health.broke", extra={"check": check.name})
        return Finding(check.name, " ".join(errors.reason_of(error).split()))
    return Finding(check.name)


def of(engine: Engine, loop: asyncio.AbstractEventLoop, adopted: Callable[[], bool]) -> Health:
    """The checks of a daemon.

    Args:
        engine: What it works with.
        loop: Its event loop.
        adopted: Whether it has taken over what the last daemon left.
    """
    return Health(
        live=[
            Check("event-loop", lambda: answers(loop)),
            Check("exec-watch", lambda: _watching(engine)),
        ],
        ready=[
            Check("adoption", lambda: _adopted(adopted)),
            Check("zygotes", kept(lambda: alive(engine.zygotes))),
            Check("images", lambda: writable(engine.store.images)),
            Check("supervisor", lambda: there(engine.settings.container_dir / "init")),
            Check("datapath", lambda: pinned(engine.settings.pin_root)),
        ],
    )


def kept(look: Callable[[], None], holds: float = HOLDS) -> Callable[[], None]:
    """Have a look taken by one at a time, and its finding hold for a while: who asks may be anybody, and ask all the time."""
    lock, until, failure = threading.Lock(), 0.0, None

    def looked() -> None:
        nonlocal until, failure
        with lock:
            if time.monotonic() >= until:
                failure = None
                try:
                    look()
                except Exception as error:  # noqa: BLE001 - raised below
                    failure = error
                until = time.monotonic() + holds
            if failure is not None:
                raise failure.with_traceback(None)

    return looked


def answers(loop: asyncio.AbstractEventLoop, patience: float = PATIENCE) -> None:
    """See whether the event loop gets round to anything.

    Raises:
        Unfit: it does not.
    """
    heard = threading.Event()
    try:
        loop.call_soon_threadsafe(heard.set)
    except RuntimeError as error:
        raise Unfit("the daemon is going down") from error
    if not heard.wait(patience):
        raise Unfit(f"the daemon's event loop has not answered for {patience:.0f} s")


def alive(zygotes: Zygotes) -> None:
    """See whether criu can be started; a zygote that has ended is started again, as the next wake would.

    Raises:
        ZygoteError: it cannot.
    """
    zygotes.ensure()


def writable(images: Path) -> None:
    """See whether it can be noted that an image is used, without which none is; this needs no space and no inode.

    Raises:
        Unfit: the file system of the images is read-only, broken or gone.
    """
    try:
        os.utime(images)
        next(images.iterdir(), None)
    except OSError as error:
        raise Unfit(
            f"the images in {images} cannot be read and marked as used: {error.strerror}; look at that file system"
        ) from error


def there(supervisor: Path) -> None:
    """See whether managed containers can be started, and can call for a wake.

    Raises:
        Unfit: one of the files that they see as /.zeropod is missing.
    """
    for path in (supervisor, supervisor.with_name("wake")):
        if not path.exists():
            raise Unfit(f"{path} is missing; run the installer again")


def pinned(root: Path) -> None:
    """See whether the programs that hold packets are still where they were pinned.

    Raises:
        Unfit: they are not.
    """
    if not root.is_dir() or next(root.iterdir(), None) is None:
        raise Unfit(f"nothing is pinned in {root} any more; start the daemon again")


def _watching(engine: Engine) -> None:
    if not engine.execs.alive():
        raise Unfit("the thread that answers execs has ended; the daemon has to be started again")


def _adopted(adopted: Callable[[], bool]) -> None:
    if not adopted():
        raise Unfit("containers of the last daemon are still being taken over")
