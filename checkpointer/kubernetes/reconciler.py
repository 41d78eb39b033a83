"""Bringing one pod up to date: looks at what is, at what should be, and asks for the difference.

Called for a pod as often as something may be new about it. It remembers nothing but reasons: a pod that is as it should
be costs no request, and one that could not be changed is looked at again.
"""

from __future__ import annotations

import dataclasses
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from checkpointer.kubernetes import client, errors, labels, rights, scaling
from checkpointer.kubernetes.autoscalers import Autoscalers
from checkpointer.kubernetes.model import SCALED_DOWN, Model
from checkpointer.kubernetes.pods import Pod
from checkpointer.kubernetes.rights import Feature
from checkpointer.kubernetes.telling import Event, clipped
from checkpointer.kubernetes.watch import Watch

log = logging.getLogger(__name__)

REJECTED = (30.0, 600.0)
"""Seconds before what the server would not have is tried again: to give requests back, and to scale down."""

LULL = 30.0
"""Seconds before a pod is scaled down again: one that sleeps and wakes all the time, or whose requests somebody else sets
whenever we have, is not to keep the API server and the kubelet busy. They are given back at once, always."""

INFEASIBLE = 300.0
"""Seconds before the kubelet is asked once more for what it has called infeasible; of itself it never looks again."""


@dataclasses.dataclass(frozen=True, slots=True)
class _Pending:
    """What the kubelet has not put into force.

    Attributes:
        pod: Of whom.
        word: Deferred or Infeasible.
        since: Monotonic seconds.
    """

    pod: Pod
    word: str
    since: float


Say = Callable[[Pod, str, Event], None]


class Reconciler:
    """Of all pods of the node; from any thread, but for one pod from one thread at a time.

    Args:
        api: The API server.
        watch: The pods as it knows them.
        model: The containers as the daemon knows them.
        status_labels: Whether labels are wanted and allowed.
        in_place_scaling: The same for requests.
        say: Called with what an event is to tell of a pod and container.
    """

    def __init__(
        self,
        api: client.Client,
        watch: Watch,
        model: Model,
        status_labels: Feature,
        in_place_scaling: Feature,
        say: Say,
    ) -> None:
        self._api = api
        self._watch = watch
        self._model = model
        self._labels = status_labels
        self._scaling = in_place_scaling
        self._autoscalers = Autoscalers(api)
        self._say = say
        self._lock = threading.Lock()
        self._reasons: dict[str, dict[str, str]] = {}
        self._pending: dict[str, _Pending] = {}
        self._lowered: dict[str, dict[str, str]] = {}
        self._lowered_at: dict[str, float] = {}  # monotonic seconds
        self._denied_until = 0.0
        self.resizes: Counter[str] = Counter()

    def look(self, uid: str) -> float:
        """Bring a pod up to date; the seconds until it should be looked at again, 0 for not by itself.

        Raises:
            errors.Unreachable: The server did not answer; try again.
            errors.Conflict: The pod has changed meanwhile; try again.
        """
        pod, statuses = self._watch.get(uid), self._model.statuses(uid)
        if pod is None:
            self._forget(uid)
            return 0.0
        if statuses is None:
            return 0.0
        again = 0.0
        try:
            pod, again = self._scale(pod, statuses)
            self._metadata(pod, self._wanted_labels(pod, statuses), {}, self._labels)
        except errors.NotFound:
            log.debug("pod.gone", extra={"pod": pod.title})
            self._watch.forget(uid)
        except errors.Conflict:
            self._settle(pod)
        return again

    def remark(self, uid: str, container: str) -> str:
        """Why a sleeping container keeps its requests, or an awake one has not got them back; "" if neither."""
        with self._lock:
            found, pending = self._reasons.get(uid, {}), self._pending.get(uid)
        reason = found.get(container) or found.get("", "")
        if reason:
            return f"its requests are as they are because {reason}"
        if pending is not None:
            word, message = pending.pod.pending
            return f"its requests are not in force, the kubelet calls that {word}: {message}"
        return ""

    def lowered(self, uid: str) -> Mapping[str, str]:
        """CPU that containers asked for when this daemon lowered it, by name."""
        with self._lock:
            return dict(self._lowered.get(uid, {}))

    def pending(self) -> dict[tuple[str, str, str], int]:
        """Pods whose requests the kubelet has not put into force, by namespace, name and its word."""
        with self._lock:
            found = list(self._pending.values())
        return {(each.pod.namespace, each.pod.name, each.word): 1 for each in found}

    # --- requests ----------------------------------------------------------------------------------------------------

    def _scale(self, pod: Pod, statuses: Mapping[str, str]) -> tuple[Pod, float]:
        """Bring a pod's requests up to date. What was scaled down is given back even where that is not wanted any more."""
        if not (self._scaling.wanted or pod.saved) or time.monotonic() < self._denied_until:
            return pod, 0.0
        asleep = {name for name, status in statuses.items() if status == SCALED_DOWN}
        again = 0.0
        try:
            plan = scaling.plan(pod, asleep, self._refused(pod, asleep))
            if plan.down and (again := self._early(pod)):
                plan = dataclasses.replace(scaling.plan(pod, asleep, "soon"), refused=plan.refused)
            if plan:
                pod = self._carry_out(pod, plan, statuses)
            elif not again:
                pod, again = self._outstanding(pod, statuses)
        except errors.Denied as denied:
            self._scaling.deny(denied)
            self._denied_until = time.monotonic() + rights.AGAIN
            self._note_reasons(pod, dict.fromkeys(asleep, self._scaling.reason))
            return pod, 0.0
        except errors.Missing:
            self._scaling.switch_off(
                "the API server has no pods/resize, which came with Kubernetes 1.33"
            )
            self._denied_until = time.monotonic() + rights.AGAIN
            return pod, 0.0
        except errors.Rejected as rejected:
            return pod, self._rejected(pod, asleep, rejected)
        self._note_reasons(pod, plan.refused)
        return pod, again

    def _early(self, pod: Pod) -> float:
        """Seconds for which its requests are left alone: it has just been scaled down, and that did not last."""
        with self._lock:
            return max(0.0, self._lowered_at.get(pod.uid, -LULL) + LULL - time.monotonic())

    def _refused(self, pod: Pod, asleep: set[str]) -> str:
        """Why nothing more is scaled down; asked of the server only where something would be."""
        if not asleep or not scaling.plan(pod, asleep).down:
            return ""
        if not self._scaling.on():
            return self._scaling.reason or "--in-place-scaling is not set any more"
        try:
            return scaling.refusal(pod) or self._autoscalers.over(pod)
        except errors.Denied as denied:
            # What is to be given back is given back all the same.
            self._scaling.deny(denied)
            return self._scaling.reason

    def _carry_out(self, pod: Pod, plan: scaling.Plan, statuses: Mapping[str, str]) -> Pod:
        if plan.notes:
            # Its label in the same breath.
            pod = self._metadata(
                pod, self._wanted_labels(pod, statuses), plan.notes, self._scaling
            )
        if plan.requests:
            try:
                before, pod = pod, self._resize(pod, plan)
            except errors.NotFound as error:
                if self._exists(pod):
                    raise errors.Missing(error.message, error.status) from error
                raise
            self._note_lowered(before, plan)
            self.resizes["down"] += plan.down
            self.resizes["up"] += plan.up
            log.info("pod.resized", extra={"pod": pod.title, "requests": dict(plan.requests)})
        if plan.done:
            pod = self._metadata(pod, self._wanted_labels(pod, statuses), plan.done, self._scaling)
        return pod

    def _note_lowered(self, before: Pod, plan: scaling.Plan) -> None:
        asked = {c.name: c.requests["cpu"] for c in before.containers if "cpu" in c.requests}
        with self._lock:
            if plan.down:
                self._lowered_at[before.uid] = time.monotonic()
            lowered = self._lowered.setdefault(before.uid, {})
            for name, requests in plan.requests.items():
                if requests.get("cpu") == scaling.LEAST["cpu"] and name in asked:
                    lowered[name] = asked[name]
                elif "cpu" in requests:
                    lowered.pop(name, None)

    def _outstanding(self, pod: Pod, statuses: Mapping[str, str]) -> tuple[Pod, float]:
        """What the kubelet makes of it: told once, and asked for again where it would not look again by itself."""
        word, message = pod.pending
        now = time.monotonic()
        with self._lock:
            before = self._pending.pop(pod.uid, None)
            if not word or not statuses or pod.over or pod.leaving:
                return pod, 0.0
            since = before.since if before is not None and before.word == word else now
            self._pending[pod.uid] = _Pending(pod, word, since)
        if before is None or before.word != word:
            self.resizes[word.lower()] += 1
            text = f"The requests of pod {pod.name} are not in force, the kubelet calls that {word}: {message}"
            self._say(pod, "", Event(f"Resize{word}", clipped(text), warning=True))
        if word != "Infeasible":
            return pod, 0.0  # it looks again every few minutes, and when another pod has gone
        if (late := since + INFEASIBLE - now) > 0:
            return pod, late
        # Least requests, which the kubelet can always give; the next look finds the note, and asks anew.
        with self._lock:
            self._pending[pod.uid] = _Pending(pod, word, now)
        plan = scaling.plan(pod, statuses.keys())
        return (self._carry_out(pod, plan, statuses) if plan else pod), INFEASIBLE

    def _rejected(self, pod: Pod, asleep: set[str], rejected: errors.Rejected) -> float:
        """The server will not have it: not as it is now."""
        what = "scaled down" if asleep else "given back"
        reason = f"the API server does not let its requests be {what}: {rejected.message}"
        if self._note_reasons(pod, {"": reason}):
            log.warning("resize.rejected", extra={"pod": pod.title, "reason": reason})
            self.resizes["rejected"] += 1
            self._say(
                pod,
                "",
                Event("ResizeRejected", clipped(f"Pod {pod.name}: {reason}"), warning=True),
            )
        return REJECTED[bool(asleep)]

    def _note_reasons(self, pod: Pod, reasons: Mapping[str, str]) -> bool:
        """Whether that is new."""
        with self._lock:
            before = self._reasons.pop(pod.uid, {})
            if reasons:
                self._reasons[pod.uid] = dict(reasons)
        for name, reason in reasons.items():
            if reason != before.get(name) and name:
                self._say(
                    pod,
                    name,
                    Event(
                        "RequestsKept",
                        clipped(f"Container {name} sleeps and keeps its requests: {reason}"),
                    ),
                )
        return reasons != before

    # --- requests to the server --------------------------------------------------------------------------------------

    def _wanted_labels(self, pod: Pod, statuses: Mapping[str, str]) -> dict[str, str | None]:
        return labels.changes(pod, statuses) if self._labels.on() else {}

    def _metadata(
        self,
        pod: Pod,
        wanted: Mapping[str, str | None],
        annotations: Mapping[str, str | None],
        feature: Feature,
    ) -> Pod:
        if not wanted and not annotations:
            return pod
        # The uid is a precondition: not another pod of the same name.
        metadata: dict[str, Any] = {"uid": pod.object_uid}
        if wanted:
            metadata["labels"] = dict(wanted)
        if annotations:
            metadata |= {"annotations": dict(annotations), "resourceVersion": pod.version}
        try:
            answer = self._api.request(
                "PATCH",
                _path(pod),
                verb="patch",
                resource="pods",
                body={"metadata": metadata},
                content=client.MERGE,
            )
        except errors.Denied as denied:
            if feature is self._scaling:
                raise
            feature.deny(denied)
            return pod
        except errors.Rejected as rejected:
            if _another(rejected):
                raise errors.Conflict(rejected.message, rejected.status) from rejected
            if feature is self._scaling:
                raise
            log.warning("labels.rejected", extra={"pod": pod.title, "reason": rejected.message})
            return pod
        return self._watch.put(answer)

    def _resize(self, pod: Pod, plan: scaling.Plan) -> Pod:
        metadata = {"uid": pod.object_uid}
        if plan.down:
            metadata["resourceVersion"] = pod.version
        body = {"metadata": metadata, **plan.resize(pod)}
        try:
            answer = self._api.request(
                "PATCH",
                _path(pod) + "/resize",
                verb="patch",
                resource="pods/resize",
                body=body,
                content=client.STRATEGIC,
            )
        except errors.Rejected as rejected:
            if _another(rejected):
                raise errors.Conflict(rejected.message, rejected.status) from rejected
            raise
        return self._watch.put(answer)

    def _exists(self, pod: Pod) -> bool:
        try:
            answer = self._api.request("GET", _path(pod), verb="get", resource="pods")
        except errors.NotFound:
            return False
        return bool(answer["metadata"]["uid"] == pod.object_uid)

    def _settle(self, pod: Pod) -> None:
        """Somebody changed it, or it is another one of the same name: see which.

        Raises:
            errors.Conflict: It is the same, so try again.
        """
        try:
            answer = self._api.request("GET", _path(pod), verb="get", resource="pods")
        except errors.NotFound:
            self._watch.forget(pod.uid)
            return
        if answer["metadata"]["uid"] != pod.object_uid:
            self._watch.forget(pod.uid)
            return
        self._watch.put(answer)
        raise errors.Conflict(f"{pod.title} has changed meanwhile", 409)

    def _forget(self, uid: str) -> None:
        with self._lock:
            self._reasons.pop(uid, None)
            self._pending.pop(uid, None)
            self._lowered.pop(uid, None)
            self._lowered_at.pop(uid, None)


def _path(pod: Pod) -> str:
    return f"/api/v1/namespaces/{pod.namespace}/pods/{pod.name}"


def _another(rejected: errors.Rejected) -> bool:
    """Whether it is about the uid: servers call that a conflict, or an immutable field."""
    return "metadata.uid" in rejected.message or "uid mismatch" in rejected.message
