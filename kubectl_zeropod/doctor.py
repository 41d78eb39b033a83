"""What may be wrong with zeropod in a cluster; every finding says what to do."""

import dataclasses
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from kubectl_zeropod import cluster, errors, nodes, sleepers
from kubectl_zeropod.sleepers import Object

OK, WARNING, FAILED, SKIPPED = "ok", "warning", "failed", "skipped"

TAINT = "zeropod.ctrox.dev/not-ready"
CONDITION = "ZeropodReady"

_AT_ONCE = 8


@dataclasses.dataclass(frozen=True, slots=True)
class Finding:
    """What one look showed.

    Attributes:
        check: What was looked at.
        on: Of what: a node, a pod; empty for the cluster.
        result: ok, warning, failed, or skipped for want of rights.
        text: What was seen, and what to do.
    """

    check: str
    on: str
    result: str
    text: str


class Doctor:
    """Looks at the nodes, their daemons, and the pods that ask for zeropod."""

    def __init__(self, where: cluster.Cluster, daemons: nodes.Nodes) -> None:
        self._cluster = where
        self._daemons = daemons

    def examine(self) -> list[Finding]:
        """All looks, in the order in which their causes depend on each other."""
        try:
            running = self._daemons.pods()
        except errors.DeniedError as denied:
            return [Finding("nodes", "", SKIPPED, str(denied))]
        found = self._labelled(running)
        names = sorted(name for name, pod in running.items() if nodes.ready(pod))
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            statuses = dict(zip(names, pool.map(self._status, names), strict=True))
            lists = list(pool.map(self._containers, names))
        for name, status in statuses.items():
            found += [status] if isinstance(status, Finding) else _daemon(name, status)
        found += [finding for findings in lists for finding in findings]
        return [*found, *_skew(statuses), *self._astray(set(running))]

    def _labelled(self, running: dict[str, Object]) -> list[Finding]:
        """Nodes that are to have zeropod, as the cluster's administrator sees them."""
        try:
            found = self._cluster.nodes()
        except errors.DeniedError as denied:
            return [Finding("nodes", "", SKIPPED, str(denied)), *_pods(running)]
        chosen = [one for one in found if _labels(one).get(cluster.NODE_LABEL) == "true"]
        if not chosen:
            text = f"no node is labelled; kubectl label node NAME {cluster.NODE_LABEL}=true"
            return [Finding("nodes", "", FAILED, text)]
        return [_node(one, running.get(one["metadata"]["name"])) for one in chosen]

    def _status(self, node: str) -> Any:
        try:
            return self._daemons.ask(node, nodes.Ask(("status",)))
        except errors.DeniedError as denied:
            return Finding("daemon", node, SKIPPED, str(denied))
        except errors.PluginError as error:
            return Finding("daemon", node, FAILED, str(error))

    def _containers(self, node: str) -> list[Finding]:
        """Containers that do not sleep although they are to, and sleeping ones that do not wake."""
        try:
            infos = self._daemons.ask(node, nodes.Ask(("list",)))
        except errors.PluginError:
            return []  # `_status` has told of it
        found = []
        for info in infos:
            title = f"{info['namespace']}/{info['pod']}/{info['container']}"
            if info["state"] == "UNMANAGED":
                found.append(
                    Finding("container", title, WARNING, f"not managed: {info['reason']}")
                )
            elif info["failed_wakes"]:
                found.append(
                    Finding("container", title, FAILED, f"does not wake: {info['reason']}")
                )
            elif info["failed_sleeps"]:
                found.append(
                    Finding("container", title, WARNING, f"does not sleep: {info['reason']}")
                )
        return found

    def _astray(self, served: set[str]) -> list[Finding]:
        """Pods that ask for zeropod on nodes that do not have it."""
        try:
            pods = self._cluster.pods(None)
        except errors.DeniedError as denied:
            return [Finding("placement", "", SKIPPED, str(denied))]
        return [
            Finding(
                "placement",
                f"{pod['metadata']['namespace']}/{pod['metadata']['name']}",
                WARNING,
                f"asks for zeropod on node {pod['spec']['nodeName']}, which does not have it; "
                f"kubectl label node {pod['spec']['nodeName']} {cluster.NODE_LABEL}=true",
            )
            for pod in pods
            if sleepers.asks(pod)
            and pod.get("spec", {}).get("nodeName")
            and pod["spec"]["nodeName"] not in served
        ]


def _pods(running: dict[str, Object]) -> list[Finding]:
    """Zeropod's own pods that are not Ready, for who may not look at nodes."""
    return [
        Finding("node", name, FAILED, _unready(pod))
        for name, pod in running.items()
        if not nodes.ready(pod)
    ]


def _node(node: Object, pod: Object | None) -> Finding:
    name = node["metadata"]["name"]
    if pod is None:
        return Finding(
            "node",
            name,
            FAILED,
            f"labelled, without a pod of zeropod; kubectl describe daemonset -n {cluster.SYSTEM} zeropod-node",
        )
    if not nodes.ready(pod):
        return Finding("node", name, FAILED, _unready(pod))
    condition: Object = next(
        (
            one
            for one in node.get("status", {}).get("conditions") or []
            if one["type"] == CONDITION
        ),
        {},
    )
    if condition and condition["status"] != "True":
        return Finding(
            "node", name, FAILED, condition.get("message") or f"{CONDITION} is not True"
        )
    if any(taint["key"] == TAINT for taint in node.get("spec", {}).get("taints") or []):
        return Finding("node", name, WARNING, f"still has the taint {TAINT}: no pods start there")
    return Finding("node", name, OK, condition.get("message") or "has a pod of zeropod")


def _unready(pod: Object) -> str:
    """Why a pod is not Ready, as far as its containers say."""
    status = pod.get("status", {})
    seen = [
        *(status.get("initContainerStatuses") or []),
        *(status.get("containerStatuses") or []),
    ]
    for container in seen:
        state = container.get("state") or {}
        stopped = state.get("waiting") or state.get("terminated") or {}
        if stopped and stopped.get("reason") != "Completed":
            message = stopped.get("message") or "see its log"
            return f"container {container['name']}: {stopped.get('reason', '')}: {message}"
    return f"not ready; kubectl describe pod -n {cluster.SYSTEM} {pod['metadata']['name']}"


def _daemon(node: str, status: Any) -> list[Finding]:
    off = {name: reason for name, reason in status.get("api", {}).items() if reason}
    told = [Finding("api", node, WARNING, f"{name}: {why}") for name, why in sorted(off.items())]
    return [_itself(node, status), *told]


def _itself(node: str, status: Any) -> Finding:
    version = f"zeropod {status['version']}, criu {status['criu']}"
    if not status["plugin"]:
        text = f"{version}; its plugin is not connected: new pods run unmanaged; see the log of container nri-plugin"
        return Finding("daemon", node, FAILED, text)
    counts = ", ".join(f"{count} {state}" for state, count in sorted(status["counts"].items()))
    return Finding("daemon", node, OK, f"{version}; containers: {counts or 'none'}")


def _skew(statuses: dict[str, Any]) -> list[Finding]:
    versions = Counter(
        status["version"] for status in statuses.values() if not isinstance(status, Finding)
    )
    if len(versions) < 2:
        return []
    text = ", ".join(f"{version} on {count}" for version, count in versions.most_common())
    return [Finding("versions", "", WARNING, f"nodes differ: {text}; is an upgrade under way?")]


def _labels(one: Object) -> dict[str, str]:
    return one["metadata"].get("labels") or {}
