"""Requests of those that sleep: nearly nothing, so that the scheduler gives their place to others; pure.

What a container asked for is noted in the pod's annotations before it is changed, and given back from there, so that
nothing has to be remembered between the two. Each look compares what is wanted with what the API server says, and the
same look after a crash at any point comes to the same end:

- asleep, more than the least: note it, then ask for the least. What somebody else changed meanwhile (a person, an
  autoscaler) is what is noted from then on.
- awake, the least, and something noted: ask for that again, then take the note away.
- awake, something else: somebody else has changed it, which counts; the note is taken away.

Whoever notes, takes a note away or asks for the least names the version of the pod that was seen: a request that was
given up and is carried out late, after others, would else leave a pod with the least and without a note.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Collection, Mapping
from typing import Any

from checkpointer.kubernetes.pods import SAVED, Container, Pod, amount

LEAST = {"cpu": "1m", "memory": "1Ki"}
"""What a container asks for while it sleeps; the original's."""


@dataclasses.dataclass(frozen=True, slots=True)
class Plan:
    """What to do, in this order.

    Attributes:
        notes: Annotations to be written first; None takes one away.
        requests: Then, requests to be changed, by container and resource.
        done: Annotations to be written last.
        refused: Why a sleeping container keeps its requests; by name, "" for the whole pod.
    """

    notes: Mapping[str, str | None] = dataclasses.field(default_factory=dict)
    requests: Mapping[str, Mapping[str, str]] = dataclasses.field(default_factory=dict)
    done: Mapping[str, str | None] = dataclasses.field(default_factory=dict)
    refused: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def __bool__(self) -> bool:
        """Whether there is anything to do."""
        return bool(self.notes or self.requests or self.done)

    @property
    def down(self) -> bool:
        """Whether something is to be scaled down."""
        return any(_least(r, text) for c in self.requests.values() for r, text in c.items())

    @property
    def up(self) -> bool:
        """Whether something is to be given back."""
        return any(not _least(r, text) for c in self.requests.values() for r, text in c.items())

    def resize(self, pod: Pod) -> dict[str, Any]:
        """The strategic merge patch of `pods/resize`; containers are merged by name, each kind in its own list."""
        spec: dict[str, list[dict[str, Any]]] = {}
        for container in pod.containers:
            if requests := self.requests.get(container.name):
                changed = {"name": container.name, "resources": {"requests": dict(requests)}}
                kind = "initContainers" if container.sidecar else "containers"
                spec.setdefault(kind, []).append(changed)
        return {"spec": spec}


def refusal(pod: Pod) -> str:
    """Why nothing of this pod is scaled; "" if it may be. Autoscalers are another matter."""
    if pod.mirror:
        return "it is a static pod, whose requests stand in a file of the node"
    if pod.qos == "Guaranteed":
        return (
            "its quality of service is Guaranteed, which Kubernetes does not let change; give one of its containers a "
            "request that is lower than its limit"
        )
    if pod.whole:
        return "it has resources as a pod (spec.resources), which are not scaled"
    return ""


def plan(pod: Pod, asleep: Collection[str], refused: str = "") -> Plan:
    """What to do about a pod's requests.

    Args:
        pod: As the API server knows it.
        asleep: Its containers that sleep.
        refused: Why nothing of it is to be scaled down; what was is given back all the same.
    """
    if pod.over or pod.leaving:
        return Plan()
    wanted: dict[str, dict[str, str]] = {}
    names = {container.name for container in pod.containers}
    # A name that no container has came with a copy of another pod's annotations; nobody would ever take it away.
    saved = {
        resource: {
            name: text for name, text in (pod.saved.get(resource) or {}).items() if name in names
        }
        for resource in LEAST
    }
    reasons: dict[str, str] = {}
    for container in pod.containers:
        for resource, least in LEAST.items():
            now = container.requests.get(resource)
            if pod.saved.get(resource, {}) is None:
                reasons[container.name] = (
                    f"annotation {SAVED[resource]} is no JSON object of quantities, so that nobody knows what its "
                    "containers asked for; set their requests, and remove it"
                )
                continue
            before = saved[resource].get(container.name)
            if container.name not in asleep:
                if before is not None and now is not None and _same(now, least):
                    wanted.setdefault(container.name, {})[resource] = before
                saved[resource].pop(container.name, None)
            elif now is None or (amount(now) or 0) <= (amount(least) or 0):
                continue  # nothing was asked for, or it is done
            elif reason := refused or _refusal(container, resource):
                reasons.setdefault(container.name, reason)
            else:
                saved[resource][container.name] = now
                wanted.setdefault(container.name, {})[resource] = least
    return _ordered(pod, saved, wanted, reasons)


def _refusal(container: Container, resource: str) -> str:
    if resource not in container.restarted_for:
        return ""
    return f"its resizePolicy restarts it when its {resource} changes; only NotRequired can be scaled in place"


def _ordered(
    pod: Pod,
    saved: Mapping[str, dict[str, str]],
    wanted: Mapping[str, Mapping[str, str]],
    reasons: Mapping[str, str],
) -> Plan:
    """First what notes more, last what notes less: in between, a crash must find the note."""
    first: dict[str, str | None] = {}
    last: dict[str, str | None] = {}
    for resource, key in SAVED.items():
        before = pod.saved.get(resource, {})
        if before is None:
            continue
        both = {**before, **saved[resource]}
        if both != before:
            first[key] = _text(both)
        if saved[resource] != both:
            last[key] = _text(saved[resource]) if saved[resource] else None
        elif not both and key in _keys(pod):
            last[key] = None
    return Plan(first, wanted, last, reasons)


def _keys(pod: Pod) -> set[str]:
    return {SAVED[resource] for resource in pod.saved}


def _text(values: Mapping[str, str]) -> str:
    return json.dumps(dict(sorted(values.items())), separators=(",", ":"))


def _least(resource: str, text: str) -> bool:
    return text == LEAST[resource]


def _same(one: str, other: str) -> bool:
    found = amount(one)
    return found is not None and found == amount(other)
