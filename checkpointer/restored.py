"""A container whose application runs again, and what is still to be done for it."""

from __future__ import annotations

import contextlib

from checkpointer import cgroups, processes
from checkpointer.errors import RestoreError, SupervisorError
from checkpointer.images import Image
from checkpointer.kinds import Kind
from checkpointer.lazy import Drain
from checkpointer.supervisor import Signal, State, Supervisor, Target

_PLACINGS = 10  # a process may fork while its parent is being moved


class Restored:
    """A container whose application runs again.

    Attributes:
        pid: The application, 0 if it has ended already.
        phases: Milliseconds by phase; they add up to "total".
        drain: Memory still being loaded, None after an eager restore.
    """

    def __init__(
        self, target: Target, image: Image, pid: int, phases: dict[str, float], drain: Drain | None
    ) -> None:
        self._target = target
        self._image = image
        self.pid = pid
        self.phases = phases
        self.drain = drain

    def tree(self) -> list[int]:
        """Return the pids of the application's processes as they are now."""
        return processes.tree(self.pid)

    def resume(self) -> None:
        """Tell the supervisor; it delivers what signals have waited, or ends as the application has ended since.

        Raises:
            SupervisorError: it does not obey.
        """
        supervisor = Supervisor(self._target.supervisor_pid)
        try:
            supervisor.tell(Signal.RESUME, State.RUN)
        except SupervisorError:
            if supervisor.alive():
                raise

    def settle(self) -> None:
        """Do what could wait until the container's packets are with it: its other cgroups, its scheduling.

        Raises:
            RestoreError: a process cannot be brought into its cgroups; it must not run on outside of its limits.
        """
        wanted = cgroups.of(self._target.supervisor_pid)
        stray: str | None = None
        for _ in range(_PLACINGS):
            cgroups.place(self.tree(), wanted)
            stray = cgroups.misplaced(self.tree(), wanted)
            if stray is None:
                break
        if stray is not None:
            raise RestoreError(
                f"the application cannot be placed: {stray}", kind=Kind.WRONG_CGROUP, retry=False
            )
        self._tune()

    def _tune(self) -> None:
        wanted = self._image.manifest.tuning
        usual = processes.tuning(self._target.supervisor_pid)
        for pid in self.tree():
            for tid in _threads(pid):
                # It may have ended, or have a priority by now that we may not give: no reason to end the application.
                with contextlib.suppress(OSError):
                    processes.tune(
                        tid, wanted.get(processes.vpid(tid), usual) if wanted else usual
                    )


def _threads(pid: int) -> list[int]:
    try:
        return processes.tasks(pid)
    except ProcessLookupError:
        return []
