"""Managed containers as the plugin reports them, kept on tmpfs so that a restarted daemon knows them at once.

The record is identity, not state: whether a container sleeps is read back from the supervisor, the image store and the
pinned maps (`reconcile`), never remembered.
"""

import dataclasses
import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from checkpointer import processes
from checkpointer.policy import Policy
from redirector.endpoints import Port

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, slots=True)
class Record:
    """One container of a pod that asks for zeropod.

    Attributes:
        id: containerd's container id.
        sandbox_id: The pod sandbox's id; containers of one pod share its network namespace.
        pod: Pod name.
        namespace: Kubernetes namespace.
        uid: Pod uid.
        name: Container name.
        pid: Host pid of PID 1 (the supervisor); 0 while it is not started.
        start_time: Of that process, in clock ticks since boot; with the pid it names one process for good.
        reason: Why it is not managed; "" when it is.
        kind: The reason as a stable word, for metrics; "" when it is managed.
        policy: What its owner wants for it.
        ports: Where it listened when it was last ended; not of its identity. Without an image only the pinned
            maps know, and a new layout of them does not.
    """

    id: str
    sandbox_id: str
    pod: str
    namespace: str
    uid: str
    name: str
    pid: int = 0
    start_time: int = 0
    reason: str = ""
    kind: str = ""
    policy: Policy = dataclasses.field(default_factory=Policy)
    ports: tuple[Port, ...] = dataclasses.field(default=(), compare=False)

    @property
    def title(self) -> str:
        """`namespace/pod/container`, as commands take and logs show it."""
        return f"{self.namespace}/{self.pod}/{self.name}"

    def alive(self) -> bool:
        """Whether the very process that was recorded still exists."""
        return self.pid > 0 and processes.alive(self.pid, self.start_time)


class Records:
    """The records in a directory, one JSON file each."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)

    def put(self, record: Record) -> None:
        """Write one record; atomic, so that a crash leaves the old or the new one.

        What cannot be written is known all the same; the next daemon hears of it from the plugin, 2 s later.
        """
        path = self._path(record.id)
        new = path.with_suffix(".new")
        try:
            new.write_text(json.dumps(dataclasses.asdict(record)))
            new.replace(path)
        except OSError as error:
            log.warning("record.unwritten", extra={"path": str(path), "error": str(error)})

    def drop(self, container_id: str) -> None:
        """Forget one record; unknown ids are fine."""
        self._path(container_id).unlink(missing_ok=True)

    def load(self) -> Iterator[Record]:
        """All readable records; one that is not is removed and said, the plugin will report it again."""
        for path in sorted(self._directory.glob("*.json")):
            try:
                yield _read(json.loads(path.read_text()))
            except (ValueError, TypeError, AttributeError) as error:
                log.warning("record.unreadable", extra={"path": str(path), "error": str(error)})
                path.unlink(missing_ok=True)

    def _path(self, container_id: str) -> Path:
        # Ids are containerd's, but the file name must not depend on believing that.
        return self._directory / (os.path.basename(container_id) + ".json")  # noqa: PTH119 - a string, not a path


def _read(values: dict[str, Any]) -> Record:
    """From JSON; what another version has added is passed over, so that its records are not lost to this one."""
    known = {field.name for field in dataclasses.fields(Record)}
    kept = {name: value for name, value in values.items() if name in known}
    ports = tuple(Port(*port) for port in values.get("ports", ()))
    return Record(**kept | {"policy": Policy.read(values.get("policy", {})), "ports": ports})
