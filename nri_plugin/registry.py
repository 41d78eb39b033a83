"""What we know of the containers of pods that want us.

Rebuilt from Synchronize at every connection; containers of other pods never get in.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from nri_plugin import api
from nri_plugin.annotations import DEFAULTS
from nri_plugin.reasons import NONE, Reason


@dataclass(frozen=True, slots=True)
class Container:
    """One container of a pod that wants us.

    Attributes:
        id: containerd's.
        sandbox_id: of its pod.
        name: in the pod.
        pod: name of the pod.
        namespace: of the pod.
        uid: of the pod.
        runtime_handler: of the pod; "" is the default one.
        policy: what its pod's annotations mean for it: fields of the report's Policy.
        pid: of the first process in our pid namespace; 0 while there is none.
        state: as NRI says.
        injected: its stored spec names the supervisor.
        managed: its process was seen to be the supervisor.
        reason: why it is not managed; empty if it is, or may become so.
        started: when it started, `time.monotonic()`; None: it has not.
    """

    id: str
    sandbox_id: str = ""
    name: str = ""
    pod: str = ""
    namespace: str = ""
    uid: str = ""
    runtime_handler: str = ""
    policy: Mapping[str, Any] = field(default_factory=lambda: DEFAULTS)
    pid: int = 0
    state: api.State = api.State.UNKNOWN
    injected: bool = False
    managed: bool = False
    reason: Reason = NONE
    started: float | None = None

    @property
    def title(self) -> str:
        """`namespace/pod/container`, for logs."""
        return f"{self.namespace}/{self.pod}/{self.name}"


class Registry:
    """The containers by id; tells a listener of every change."""

    def __init__(self) -> None:
        self._containers: dict[str, Container] = {}
        self._listener: Callable[[str], None] = lambda _: None

    def listen(self, listener: Callable[[str], None]) -> None:
        """Have `listener` called with the id of each container that changes or goes."""
        self._listener = listener

    def get(self, container_id: str) -> Container | None:
        """Return a container, None if it is none of ours."""
        return self._containers.get(container_id)

    def __iter__(self) -> Iterator[Container]:
        return iter(list(self._containers.values()))

    def put(self, container: Container) -> Container:
        """Add or replace a container."""
        if self._containers.get(container.id) != container:
            self._containers[container.id] = container
            self._listener(container.id)
        return container

    def change(self, container_id: str, **changes: object) -> Container | None:
        """Change fields of a container, if it is there, and return it."""
        known = self._containers.get(container_id)
        if known is None:
            return None
        return self.put(dataclasses.replace(known, **changes))  # type: ignore[arg-type] # field names and types are the caller's

    def remove(self, container_id: str) -> Container | None:
        """Forget a container and return it."""
        known = self._containers.pop(container_id, None)
        if known is not None:
            self._listener(container_id)
        return known
