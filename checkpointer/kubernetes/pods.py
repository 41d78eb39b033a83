"""What is looked at of a pod; pure, from the API server's JSON."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Any, Self

from kubernetes.utils import quantity

from checkpointer.declared import Declared
from checkpointer.kubernetes import probes

STATUS = "status.zeropod.ctrox.dev/"
"""Prefix of the labels that say how containers are; what follows is the container's name."""

SAVED = {
    "cpu": "zeropod.ctrox.dev/cpu-requests",
    "memory": "zeropod.ctrox.dev/memory-requests",
}
"""Annotations with the requests that containers had before they fell asleep: JSON, by container. The original's."""

_CONFIG_MIRROR, _CONFIG_HASH = "kubernetes.io/config.mirror", "kubernetes.io/config.hash"


@dataclasses.dataclass(frozen=True, slots=True)
class Container:
    """One container's resources.

    Attributes:
        name: Its name.
        requests: As written, by resource.
        restarted_for: Resources that the kubelet changes only by restarting it.
        sidecar: It stands among the pod's init containers.
    """

    name: str
    requests: Mapping[str, str]
    restarted_for: frozenset[str] = frozenset()
    sidecar: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class Pod:
    """One pod of the node.

    Attributes:
        uid: As the node knows it; a successor of the same name has another. That of a static pod is the kubelet's hash of
            its file, by which kubectl looks for its events, too.
        object_uid: As the API server knows it; another only for a static pod, whose object is an image of it.
        namespace: Where.
        name: Its name.
        version: Of the object.
        qos: Guaranteed, Burstable or BestEffort.
        leaving: It is being deleted.
        over: It has ended.
        mirror: A static pod's image; the kubelet's file counts, not the API.
        whole: It has resources as a pod, not only its containers.
        owner: Kind, name and API group of its controller; empty without one.
        template: Its owner's hash of the template; "" without one.
        statuses: Its status labels by container.
        saved: What was noted of its requests, by resource; None where it cannot be read.
        containers: Those that can be resized.
        pending: Why the kubelet has not (yet) resized it, Deferred or Infeasible, and its sentence.
        declared: Probes and readiness by container.
    """

    uid: str
    object_uid: str
    namespace: str
    name: str
    version: str
    qos: str
    leaving: bool
    over: bool
    mirror: bool
    whole: bool
    owner: tuple[str, str, str]
    template: str
    statuses: Mapping[str, str]
    saved: Mapping[str, Mapping[str, str] | None]
    containers: tuple[Container, ...]
    pending: tuple[str, str] = ("", "")
    declared: Mapping[str, Declared] = dataclasses.field(default_factory=dict)

    @property
    def title(self) -> str:
        """`namespace/name`."""
        return f"{self.namespace}/{self.name}"

    @classmethod
    def of(cls, thing: Mapping[str, Any]) -> Self:
        """From the API's object."""
        metadata, spec, status = (
            thing["metadata"],
            thing.get("spec") or {},
            thing.get("status") or {},
        )
        labels, notes = metadata.get("labels") or {}, metadata.get("annotations") or {}
        leaving = "deletionTimestamp" in metadata
        mirror = _CONFIG_MIRROR in notes
        return cls(
            uid=(notes.get(_CONFIG_HASH) if mirror else "") or metadata["uid"],
            object_uid=metadata["uid"],
            namespace=metadata["namespace"],
            name=metadata["name"],
            version=metadata.get("resourceVersion", ""),
            qos=status.get("qosClass", ""),
            leaving=leaving,
            over=status.get("phase") in {"Succeeded", "Failed"},
            mirror=mirror,
            whole=bool(spec.get("resources")),
            owner=_owner(metadata.get("ownerReferences") or []),
            template=labels.get("pod-template-hash", ""),
            statuses={
                key.removeprefix(STATUS): value
                for key, value in labels.items()
                if key.startswith(STATUS)
            },
            saved={
                resource: _saved(notes[key]) for resource, key in SAVED.items() if key in notes
            },
            containers=tuple(_containers(spec)),
            pending=_pending(status),
            declared=probes.declared(spec, status, leaving=leaving),
        )

    def newer(self, other: Pod) -> bool:
        """Whether this is what counts of two objects for one uid, mostly as the later version of the same.

        A static pod's object is made anew by the kubelet. But anybody may give a pod the annotations of one, so that it
        never counts more than who has that uid of the API server. Versions are numbers, although nobody should know that.
        """
        if (self.uid == self.object_uid) is not (other.uid == other.object_uid):
            return self.uid == self.object_uid
        if not (self.version.isdecimal() and other.version.isdecimal()):
            return self.version != other.version
        return int(self.version) > int(other.version)


def amount(text: str) -> Decimal | None:
    """A quantity as a number; None if it is none."""
    try:
        found: Decimal = quantity.parse_quantity(text)
    except (ValueError, ArithmeticError):
        return None
    return found


def _owner(references: list[Mapping[str, Any]]) -> tuple[str, str, str]:
    for reference in references:
        if reference.get("controller"):
            group = str(reference["apiVersion"]).rpartition("/")[0]
            return reference["kind"], reference["name"], group
    return "", "", ""


def _containers(spec: Mapping[str, Any]) -> Iterator[Container]:
    sidecars = (c for c in spec.get("initContainers") or [] if c.get("restartPolicy") == "Always")
    found = [(c, False) for c in spec.get("containers") or []] + [(c, True) for c in sidecars]
    for container, sidecar in found:
        yield Container(
            name=container["name"],
            requests=(container.get("resources") or {}).get("requests") or {},
            restarted_for=frozenset(
                policy["resourceName"]
                for policy in container.get("resizePolicy") or []
                if policy.get("restartPolicy") == "RestartContainer"
            ),
            sidecar=sidecar,
        )


def _saved(text: str) -> Mapping[str, str] | None:
    """An annotation's content; None if somebody has made something else of it."""
    try:
        found = json.loads(text)
    except ValueError:
        return None
    if not isinstance(found, dict):
        return None
    if not all(isinstance(v, str) and amount(v) is not None for v in found.values()):
        return None
    return found


def _pending(status: Mapping[str, Any]) -> tuple[str, str]:
    for condition in status.get("conditions") or []:
        if condition.get("type") == "PodResizePending" and condition.get("status") == "True":
            return condition.get("reason", ""), condition.get("message", "")
    return "", ""
