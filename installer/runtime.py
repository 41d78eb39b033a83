"""Writing a changed configuration, restarting containerd, and going back when it does not come up."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence

from installer.containerd import Change
from installer.errors import InstallError
from installer.host import Host
from installer.layouts import NRI_SOCKET, Layout

BACKUP = ".before-zeropod"
PENDING = "/opt/zeropod/.restart"
"""There from before a change until containerd was seen to run with it: an installation that was cut off is completed."""

Clock = Callable[[], float]
Pause = Callable[[float], None]


def apply(
    host: Host,
    layout: Layout,
    changes: Sequence[Change],
    *,
    timeout: float,
    nri: bool = True,
    backup: bool = True,
    clock: Clock = time.monotonic,
    pause: Pause = time.sleep,
) -> list[str]:
    """Write files, restart what reads them if anything has changed, and see that it works.

    Args:
        host: The node.
        layout: Its layout.
        changes: What to write.
        timeout: Seconds for containerd to come up.
        nri: Whether NRI's socket has to be there afterwards.
        backup: Whether what a file said is kept beside it.
        clock: Seconds.
        pause: Waits so many seconds.

    Returns:
        What was done, for people.

    Raises:
        InstallError: containerd did not come up with it; the files are as before, and it runs with them again.
    """
    if not changes and not host.exists(PENDING):
        return []
    host.write(PENDING, "")
    done = []
    for change in changes:
        if backup and change.before is not None and not host.exists(change.path + BACKUP):
            host.write(change.path + BACKUP, change.before)
        _put(host, change.path, change.after)
        done.append(f"{change.what}: {change.path}")
    try:
        done += _restart(host, layout)
        _wait(host, layout, timeout, nri=nri, clock=clock, pause=pause)
    except InstallError as error:
        for change in reversed(changes):
            _put(host, change.path, change.before)
        if changes:
            with contextlib.suppress(InstallError):  # the first one is what is told
                _restart(host, layout)
        host.remove(PENDING)
        raise InstallError(
            f"containerd does not work with its new configuration, the old one is back: {error}",
            "see its log on the node",
        ) from error
    host.remove(PENDING)
    return done


def _put(host: Host, path: str, text: str | None) -> None:
    if text is None:
        host.remove(path)
    else:
        host.write(path, text)


def _restart(host: Host, layout: Layout) -> list[str]:
    """Restart the units of a layout that run.

    Raises:
        InstallError: none of them runs, or one does not start.
    """
    if not host.exists("/run/systemd/system"):
        raise InstallError(
            "this node has no systemd", "restart containerd yourself and run this again"
        )
    running = [
        u for u in layout.units if host.run("systemctl", "is-active", "-q", u).returncode == 0
    ]
    if not running:
        raise InstallError(
            f"none of the units {', '.join(layout.units)} runs",
            "restart containerd yourself and run this again",
        )
    for unit in running:
        result = host.run("systemctl", "restart", unit)
        if result.returncode:
            tail = host.run("journalctl", "-u", unit, "-n", "15", "--no-pager", "-o", "cat").stdout
            raise InstallError(
                f"systemctl restart {unit}: {result.stderr.strip()}\n{tail}", "see above"
            )
    return [f"restarted {unit}" for unit in running]


def _wait(
    host: Host, layout: Layout, timeout: float, *, nri: bool, clock: Clock, pause: Pause
) -> None:
    wanted = [layout.socket, *([NRI_SOCKET] if nri else [])]
    deadline = clock() + timeout
    while silent := [path for path in wanted if not host.answers(path)]:
        if clock() > deadline:
            raise InstallError(
                f"nobody answers at {' and '.join(silent)} {timeout:.0f} s after the restart",
                "see containerd's log",
            )
        pause(0.2)
