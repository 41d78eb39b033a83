"""Where the kubelet is: by its cgroup its probes are told from other traffic (`redirector.kubelet`)."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterator
from pathlib import Path

from checkpointer import cgroups
from checkpointer.errors import ZygoteError
from redirector.kubelet import Ear

log = logging.getLogger(__name__)

AUTO = "auto"

NAMES = frozenset({"kubelet", "k3s-server", "k3s-agent", "k3s", "kubelite"})
"""What the process is called that is the kubelet, or has it inside (K3s, MicroK8s)."""

LOOK = 5.0
"""Seconds between looks whether it is where it was: it may be started anew, in a new cgroup of the same name."""

SEARCH = 30.0
"""The same where none was found, which means to look through all processes."""

_PODS = "kubepods"


def find(setting: str, proc: Path = Path("/proc")) -> dict[Path, int]:
    """Return its cgroup with its pid, or those of several kubelets of one node; pid 0 where it was not looked for.

    Only of processes of the host itself: in its network, outside of the pods' cgroups. A container may call a process as
    it likes.
    """
    if setting != AUTO:
        return {Path(setting): 0} if setting and Path(setting).is_dir() else {}
    return dict(_found(proc))


def _found(proc: Path) -> Iterator[tuple[Path, int]]:
    host = (proc / "1/ns/net").readlink()
    for entry in proc.iterdir():
        if not entry.name.isdigit():
            continue
        with contextlib.suppress(OSError, ZygoteError):
            if not _is_kubelet(entry):
                continue
            if _PODS in (entry / "cgroup").read_text() or (entry / "ns/net").readlink() != host:
                continue
            group = cgroups.of(int(entry.name)).v2
            if group is not None and cgroups.mount_of(group) != group:
                yield group, int(entry.name)
            else:
                log.debug("kubelet.no_cgroup", extra={"pid": entry.name})


def _is_kubelet(process: Path) -> bool:
    return (process / "comm").read_text().strip() in NAMES


class Watch:
    """Keeps an ear on the kubelet.

    Args:
        setting: `Settings.kubelet_cgroup`.
        ear: Where its connections are noted.
        looked: Called after each further look; with True if it was found only now.
    """

    def __init__(self, setting: str, ear: Ear, looked: Callable[[bool], None]) -> None:
        self._setting = setting
        self._ear = ear
        self._looked = looked
        self._pids: dict[Path, int] = {}
        self._heard: dict[Path, int] | None = None
        self._said = ""

    @property
    def heard(self) -> bool:
        """Whether its connections are known."""
        return bool(self._heard)

    def look(self) -> None:
        """See where it is, and listen there; what fails is tried again with the next look. Blocking."""
        if self._heard and self._inodes() == self._heard and self._lives():
            return
        self._pids = find(self._setting)
        found = self._inodes()
        if found == self._heard:
            return
        try:
            self._ear.put(found)
        except OSError as error:
            self._heard = None
            self._say("kubelet.unheard", str(error))
            return
        self._heard = found
        if not found and self._setting:
            self._say("kubelet.none", "there is none; give its cgroup by --kubelet-cgroup")

    async def run(self) -> None:
        """Look again and again."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(LOOK if self._heard else SEARCH)
            await loop.run_in_executor(None, self.again)

    def again(self) -> None:
        """A further look, after which others see to what depends on it. Blocking."""
        before = self.heard
        try:
            self.look()
            self._looked(self.heard and not before)
        except Exception:
            # A pod that goes meanwhile must not be what ends all further looks.
            log.exception("kubelet.broke")

    def _inodes(self) -> dict[Path, int]:
        found = {}
        for group in self._pids:
            with contextlib.suppress(OSError):
                found[group] = group.stat().st_ino
        return found

    def _lives(self) -> bool:
        try:
            return all(_is_kubelet(Path("/proc", str(pid))) for pid in self._pids.values() if pid)
        except OSError:
            return False

    def _say(self, what: str, reason: str) -> None:
        if reason != self._said:
            log.warning(
                what, extra={"reason": reason, "effect": "probes are traffic like any other"}
            )
        self._said = reason
