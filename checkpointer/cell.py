"""The application's own cgroup, so that it can be frozen, or ended with all that it has forked, while execs go on.

It is a child of the container's cgroup on version 2, without controllers, so that limits and accounting stay where they
are; on a hybrid node, where runtimes need not make one on version 2, of our slice. It exists while it is needed.

Version 1's freezer was ruled out: what is frozen there cannot be killed, and the deletion of its pod would hang.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from checkpointer import cgroups, processes
from checkpointer.errors import CellError

NAME = "zeropod"

PATIENCE = 5.0
"""Seconds for what takes milliseconds: to move, freeze or kill a tree."""

_POLL = 0.0005


@dataclasses.dataclass(frozen=True, slots=True)
class Cell:
    """One application's cgroup.

    Attributes:
        path: Its directory, which may not be there.
        home: Where the processes belong else.
    """

    path: Path
    home: Path

    @classmethod
    def of(cls, container_id: str, supervisor: int) -> Cell:
        """The cell of a container's application.

        Raises:
            CellError: There is no version 2 hierarchy.
            ProcessLookupError: The supervisor has gone.
        """
        home = cgroups.of(supervisor).v2
        if home is None:
            raise CellError(
                "there is no cgroup version 2 hierarchy on this node; mount one: "
                "mount -t cgroup2 none /sys/fs/cgroup/unified"
            )
        if container_id in home.name:
            return cls(home / NAME, home)
        return cls(cgroups.mount_of(home) / cgroups.SLICE / container_id, home)

    @property
    def exists(self) -> bool:
        """Whether it was made."""
        return self.path.is_dir()

    @property
    def frozen(self) -> bool:
        """Whether what is in it stands still."""
        try:
            return "frozen 1" in (self.path / "cgroup.events").read_text()
        except FileNotFoundError:
            return False

    def pids(self) -> list[int]:
        """The living processes in it."""
        try:
            return [int(line) for line in (self.path / "cgroup.procs").read_text().split()]
        except OSError:  # ENOENT, and ENODEV while it is being removed
            return []

    def fill(self, tree: Callable[[], Iterable[int]]) -> None:
        """Make it and move a tree of processes in, which forks meanwhile.

        Raises:
            CellError: Not all of them could be moved.
        """
        with _explained("made"):
            self.path.mkdir(exist_ok=True)
        deadline = time.monotonic() + PATIENCE
        while missing := {pid for pid in tree() if processes.alive(pid)} - set(self.pids()):
            if time.monotonic() > deadline:
                raise CellError(f"{len(missing)} processes could not be moved to {self.path}")
            self._move(missing, self.path)

    def freeze(self) -> None:
        """Stop everything in it; signals but SIGKILL wait.

        Raises:
            CellError: It does not come to rest.
        """
        self._set_frozen(1)
        deadline = time.monotonic() + PATIENCE
        while not self.frozen:
            if time.monotonic() > deadline:
                raise CellError(
                    f"the processes in {self.path} do not stop: one of them waits for a disk, perhaps"
                )
            time.sleep(_POLL)

    def thaw(self) -> None:
        """Let everything go on; of what was never frozen, too.

        Raises:
            CellError: The kernel refuses.
        """
        if self.exists:
            self._set_frozen(0)

    def kill(self) -> None:
        """End everything in it, frozen or not.

        Raises:
            CellError: Something is left.
        """
        deadline = time.monotonic() + PATIENCE
        while left := self.pids():
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            if time.monotonic() > deadline:
                raise CellError(f"the processes in {self.path} cannot be killed: {left}")
            time.sleep(_POLL)

    def dissolve(self) -> None:
        """Thaw, move everything back and remove it; nothing happens if it is not there.

        Raises:
            CellError: Something is left in it; it runs.
        """
        self.thaw()
        deadline = time.monotonic() + PATIENCE
        while self.exists:
            self._move(self.pids(), self.home)
            with contextlib.suppress(OSError):  # somebody has forked, or it is gone
                self.path.rmdir()
            if time.monotonic() > deadline:
                raise CellError(f"{self.path} cannot be removed: {self.pids()} are in it")

    def _set_frozen(self, value: int) -> None:
        with _explained("frozen" if value else "thawed"):
            (self.path / "cgroup.freeze").write_text(str(value))

    def _move(self, pids: Iterable[int], where: Path) -> None:
        for pid in pids:
            with _explained("filled"), contextlib.suppress(ProcessLookupError):
                (where / "cgroup.procs").write_text(str(pid))


def remove(container_id: str) -> None:
    """Remove what is left of the cell of a container that has ended; one in the container's cgroup went with that."""
    for mounted in cgroups.mounts():
        with contextlib.suppress(OSError):
            (mounted / cgroups.SLICE / container_id).rmdir()


@contextlib.contextmanager
def _explained(what: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise CellError(f"the application's cgroup could not be {what}: {error}") from error
