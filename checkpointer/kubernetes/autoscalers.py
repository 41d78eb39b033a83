"""Who else looks at a pod's requests: an autoscaler that measures by them would see a sleeping pod as overloaded."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from typing import Any

from checkpointer.kubernetes import errors
from checkpointer.kubernetes.client import Client
from checkpointer.kubernetes.pods import Pod

KEPT = 60.0
"""Seconds for which what a namespace has is believed; many pods fall asleep at once."""

ABSENT = 600.0
"""Seconds for which a cluster without the kind is believed not to have got it."""

_HORIZONTAL = ("autoscaling/v2", "horizontalpodautoscalers")
_VERTICAL = ("autoscaling.k8s.io/v1", "verticalpodautoscalers")


class Autoscalers:
    """Those of the namespaces whose pods fall asleep, as far as they are about pods' resources.

    Args:
        client: To the API server.
    """

    def __init__(self, client: Client) -> None:
        self._client = client
        self._lock = threading.Lock()
        self._known: dict[tuple[str, str], tuple[float, list[dict[str, Any]]]] = {}

    def over(self, pod: Pod) -> str:
        """Why a pod is not to be scaled in place; "" if no autoscaler is about it.

        Raises:
            errors.ApiError: It cannot be told now.
        """
        targets = _targets(pod)
        if not targets:
            return ""
        for thing in self._of(pod.namespace, *_HORIZONTAL):
            if _target(thing, "scaleTargetRef") in targets and by_resource(thing):
                name = thing["metadata"]["name"]
                return (
                    f"HorizontalPodAutoscaler {name} measures it by its requests, and would start more pods if they were "
                    "nearly nothing; let it use other metrics, or switch in-place scaling off"
                )
        for thing in self._of(pod.namespace, *_VERTICAL):
            if _target(thing, "targetRef") in targets and changes_running(thing):
                name = thing["metadata"]["name"]
                return (
                    f"VerticalPodAutoscaler {name} sets its requests; let it only recommend (updateMode Off or Initial), or "
                    "switch in-place scaling off"
                )
        return ""

    def _of(self, namespace: str, group: str, resource: str) -> list[dict[str, Any]]:
        with self._lock:
            until, found = self._known.get((resource, namespace), (0.0, []))
            absent, _ = self._known.get((resource, ""), (0.0, []))
        now = time.monotonic()
        if now < absent:
            return []
        if now < until:
            return found
        path = f"/apis/{group}/namespaces/{namespace}/{resource}"
        try:
            answer = self._client.request("GET", path, verb="list", resource=resource)
        except errors.NotFound:
            with self._lock:
                self._known[resource, ""] = (now + ABSENT, [])
            return []
        items: list[dict[str, Any]] = answer.get("items") or []
        with self._lock:
            self._known = {k: v for k, v in self._known.items() if v[0] > now}
            self._known[resource, namespace] = (now + KEPT, items)
        return items


def by_resource(thing: Mapping[str, Any]) -> bool:
    """Whether a HorizontalPodAutoscaler looks at CPU or memory; without metrics it looks at CPU."""
    metrics = thing["spec"].get("metrics") or [{"type": "Resource"}]
    return any(metric.get("type") in {"Resource", "ContainerResource"} for metric in metrics)


def changes_running(thing: Mapping[str, Any]) -> bool:
    """Whether a VerticalPodAutoscaler changes pods that run."""
    mode = (thing["spec"].get("updatePolicy") or {}).get("updateMode", "Auto")
    return mode not in {"Off", "Initial"}


def _target(thing: Mapping[str, Any], field: str) -> tuple[str, str]:
    reference = thing["spec"].get(field) or {}
    return reference.get("kind", ""), reference.get("name", "")


def _targets(pod: Pod) -> set[tuple[str, str]]:
    """What an autoscaler may name to mean this pod: its controller, and that of a ReplicaSet, by its name."""
    kind, name, _ = pod.owner
    found = {(kind, name)} if name else set()
    base = name.removesuffix(f"-{pod.template}") if pod.template else name
    if kind == "ReplicaSet" and base != name:
        found |= {("Deployment", base), ("Rollout", base)}
    return found
