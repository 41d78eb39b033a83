"""No CPU limit while an application is being restored, on cgroup version 2.

criu is born in the container's cgroup, so that memory is charged where it belongs, and with it come the container's
limits: at 100m a restore took ten times as long (measured: 2 to 7 s instead of 0.3). The limit is lifted at the container
and at the pod, for either alone goes on throttling. On version 1 the cpu hierarchy is joined after the restore instead.

What was lifted is written down before, so that a daemon that is killed in between leaves nothing lifted for longer than
until its successor has started.
"""

from __future__ import annotations

import contextlib
import json
import logging
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path

from checkpointer.cgroups import Cgroups

_log = logging.getLogger(__name__)

_FILE = "cpu.max"
_NONE = "max"


class Unthrottled:
    """Lifts CPU limits, and puts them back.

    Args:
        journal: Where it is written down; on a file system that does not outlive the kernel's cgroups.
    """

    def __init__(self, journal: Path) -> None:
        self._journal = journal
        self._lock = threading.Lock()
        self._limits: dict[str, str] = {}  # as they were, by file
        self._users: dict[str, int] = {}  # containers of one pod may wake at once
        self._reconcile()

    def _reconcile(self) -> None:
        """Put back what a daemon that has ended had lifted."""
        try:
            found = json.loads(self._journal.read_text())
        except FileNotFoundError:
            return
        except ValueError as error:
            _log.warning("cpu.journal", extra={"path": str(self._journal), "error": str(error)})
            found = {}
        for file, limit in found.items():
            _put_back(Path(file), limit)
        self._journal.unlink()

    @contextlib.contextmanager
    def lifted(self, groups: Cgroups) -> Iterator[None]:
        """While the context lasts a container and its pod have no CPU limit."""
        taken: list[str] = []
        try:
            with self._lock:
                self._lift(_limited(groups), taken)
            yield
        finally:
            with self._lock:
                self._lower(taken)

    def _lift(self, files: Iterable[Path], taken: list[str]) -> None:
        fresh = []
        for file in files:
            name = str(file)
            if name not in self._limits:
                limit = _read(file)
                if limit is None or limit.startswith(_NONE):
                    continue
                self._limits[name] = limit
                fresh.append(file)
            self._users[name] = self._users.get(name, 0) + 1
            taken.append(name)
        if not fresh:
            return
        try:
            self._note()
            for file in fresh:
                file.write_text(_NONE)
        except OSError as error:
            _log.warning("cpu.unlifted", extra={"error": str(error)})  # slow, that is all

    def _lower(self, taken: list[str]) -> None:
        for name in taken:
            self._users[name] -= 1
        over = [name for name in taken if not self._users[name]]
        for name in over:
            _put_back(Path(name), self._limits.pop(name))
            del self._users[name]
        if over:
            with contextlib.suppress(
                OSError
            ):  # what stands there too long is put back once more, as it is
                self._note()

    def _note(self) -> None:
        if not self._limits:
            self._journal.unlink(missing_ok=True)
            return
        draft = self._journal.with_suffix(".new")
        draft.write_text(json.dumps(self._limits))
        draft.replace(self._journal)


def _limited(groups: Cgroups) -> list[Path]:
    """The files of a container's limit and its pod's; none where the controller is version 1's."""
    container = groups.controller("cpu")
    if container is None or container != groups.v2:
        return []
    return [directory / _FILE for directory in (container.parent, container)]


def _read(file: Path) -> str | None:
    try:
        return file.read_text().strip()
    except OSError:
        return None  # the root, or a cgroup without the controller


def _put_back(file: Path, limit: str) -> None:
    """Set a limit again, unless somebody else has set one meanwhile."""
    now = _read(file)
    if now is None or not now.startswith(_NONE):
        return
    try:
        file.write_text(limit)
    except OSError as error:
        _log.warning(
            "cpu.unlimited", extra={"file": str(file), "limit": limit, "error": str(error)}
        )
