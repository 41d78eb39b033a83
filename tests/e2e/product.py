"""zeropod on the cluster: installed by its manifests, asked by its command line, taken away."""

from __future__ import annotations

import json
import os
import re
from typing import Any

from e2e import kubectl, nodes

NAMESPACE, DAEMON_SET, DAEMON = "zeropod-system", "zeropod-node", "checkpointer"

LABEL = "zeropod.ctrox.dev/node"

#: What is applied, and what takes it away; a development cluster has an image of its own.
OVERLAY = os.environ.get("ZEROPOD_E2E_OVERLAY", "manifests/production")
UNINSTALL = os.environ.get("ZEROPOD_E2E_UNINSTALL", "manifests/uninstall")


def pods() -> list[Any]:
    """Those of the DaemonSet."""
    return kubectl.items("pods", "-n", NAMESPACE, "-l", "app.kubernetes.io/name=zeropod")


def pod_on(node: str) -> Any:
    """The one on a node."""
    return next(
        one
        for one in pods()
        if one["spec"].get("nodeName") == node and not one["metadata"].get("deletionTimestamp")
    )


def zeropod(pod: Any, verb: str) -> list[Any]:
    """What `zeropod VERB` says of a pod, on the pod's node."""
    meta = pod["metadata"]
    try:
        agent = pod_on(pod["spec"]["nodeName"])["metadata"]["name"]
    except StopIteration:
        raise kubectl.KubectlError(f"no zeropod on node {pod['spec']['nodeName']}") from None
    words = ["zeropod", verb, f"{meta['namespace']}/{meta['name']}", "-o", "json"]
    told = kubectl.run("exec", "-n", NAMESPACE, agent, "-c", DAEMON, "--", *words)
    return list(json.loads(told))


def rolled_out(fast: float = 240.0) -> None:
    """Waits until the DaemonSet's pods are those that were asked for, ready by their own word, and manage new pods.

    After a reboot the DaemonSet's status is that of before, until its controller has looked; and a pod of ours may be
    ready before its plugin is connected.
    """

    def done() -> bool:
        found = kubectl.get("daemonset", "-n", NAMESPACE, DAEMON_SET)
        status = found["status"]
        wanted = status["desiredNumberScheduled"]
        return (
            status.get("observedGeneration") == found["metadata"]["generation"]
            and wanted > 0
            and status.get("updatedNumberScheduled") == wanted
            and status.get("numberReady") == wanted
            and all(_at_work(one) for one in pods())
        )

    try:
        kubectl.until(done, "zeropod is not ready", fast)
    except AssertionError as error:
        raise AssertionError(f"{error}\n{describe()}") from None


def _at_work(pod: Any) -> bool:
    conditions = {one["type"]: one["status"] for one in pod["status"].get("conditions", [])}
    if conditions.get("Ready") != "True":
        return False
    words = ["zeropod", "status", "-o", "json"]
    name = pod["metadata"]["name"]
    told = kubectl.run("exec", "-n", NAMESPACE, name, "-c", DAEMON, "--", *words)
    return bool(json.loads(told)["plugin"])


def describe() -> str:
    """What is known of pods that are not as they should be."""
    told = []
    for one in pods():
        name = one["metadata"]["name"]
        told.append(kubectl.run("describe", "pod", "-n", NAMESPACE, name))
        for container in ("installer", "nri-plugin", DAEMON):
            try:
                told.append(f"--- {container}")
                told.append(
                    kubectl.run("logs", "-n", NAMESPACE, name, "-c", container, "--tail=40")
                )
            except kubectl.KubectlError as error:
                told.append(str(error))
    return "\n".join(told)


def uninstall() -> None:
    """As the documentation says: the nodes first, then everything that was applied."""
    kubectl.run("apply", "-k", UNINSTALL)

    def done() -> bool:
        status = kubectl.get("daemonset", "-n", NAMESPACE, "zeropod-uninstall")["status"]
        return 0 < status["desiredNumberScheduled"] == status.get("numberReady")

    kubectl.until(done, "the nodes are not clean", 180)
    for overlay in (UNINSTALL, OVERLAY):
        kubectl.run("delete", "-k", overlay, "--ignore-not-found", fast=180)


#: What of us could be on a node: files, mounts, pins, cgroups, changed configurations.
TRACES = """
    find /opt/zeropod /run/zeropod /var/lib/zeropod /sys/fs/bpf/zeropod 2>/dev/null
    find /sys/fs/cgroup -maxdepth 2 -name 'zeropod*'
    cut -d ' ' -f 2 /proc/mounts | grep zeropod
    find /etc -path '*containerd*' -type f -exec sha256sum {} +
    ip -o link | grep -o 'zp[0-9][^:@]*'
"""


def traces(node: str) -> list[str]:
    """All that a node has of what could be ours, and what the API says of it."""
    found = nodes.run(node, f"({TRACES}); true").splitlines()
    known = kubectl.get("node", node)
    said = [
        *known["metadata"]["labels"],
        *known["metadata"].get("annotations", {}),
        *(taint["key"] for taint in known["spec"].get("taints", [])),
        *(one["type"] for one in known["status"]["conditions"]),
    ]
    running = nodes.look(node, "ps -o pid,args").splitlines()
    found += [word for word in said if "zeropod" in word.lower()]
    found += [line for line in running if re.search(r"criu|zeropod-(node|check|nri|inst)", line)]
    return sorted(line.strip() for line in found)


def objects() -> list[str]:
    """The objects of the cluster that are ours by their names."""
    kinds = (
        "namespaces,clusterroles,clusterrolebindings,runtimeclasses,crds,nodes,"
        "validatingadmissionpolicies,validatingadmissionpolicybindings"
    )
    found = kubectl.run("get", kinds, "-o", "name").split()
    return [name for name in found if "zeropod" in name]
