"""A shell on each node of the cluster, by a privileged DaemonSet: for what has to be done or seen there."""

from __future__ import annotations

import shlex
from typing import Any

from e2e import kubectl, workloads

NAME = "node-shell"

#: kubeadm and kind run it as a static pod, other nodes as a service.
MANIFEST, ASIDE = (
    "/etc/kubernetes/manifests/kube-apiserver.yaml",
    "/etc/kubernetes/kube-apiserver.yaml.e2e",
)
STOP_API = (
    f"if [ -e {MANIFEST} ]; then mv {MANIFEST} {ASIDE}; else systemctl stop kube-apiserver; fi"
)
START_API = (
    f"if [ -e {ASIDE} ]; then mv {ASIDE} {MANIFEST}; else systemctl start kube-apiserver; fi"
)


def daemon_set() -> dict[str, Any]:
    """What brings the shells."""
    spec = {
        "hostPID": True,
        "hostNetwork": True,
        "tolerations": [{"operator": "Exists"}],
        "terminationGracePeriodSeconds": 0,
        "containers": [workloads.container(
            "shell", workloads.BUSYBOX, "sleep", "infinity",
            securityContext={"privileged": True},
            volumeMounts=[{"name": "host", "mountPath": "/host", "mountPropagation": "HostToContainer"}],
        )],
        "volumes": [{"name": "host", "hostPath": {"path": "/"}}],
    }  # fmt: skip
    return {
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "metadata": {"namespace": workloads.NAMESPACE, "name": NAME},
        "spec": {"selector": {"matchLabels": {"app": NAME}},
                 "template": {"metadata": workloads.template(NAME, None), "spec": spec}},
    }  # fmt: skip


def names() -> list[str]:
    """All nodes."""
    return [node["metadata"]["name"] for node in kubectl.items("nodes")]


def address(node: str) -> str:
    """Where its NodePorts are."""
    known = kubectl.get("node", node)["status"]["addresses"]
    return str(next(one["address"] for one in known if one["type"] == "InternalIP"))


#: systemctl ignores "restart" in a chroot, and exits with 0; the older name and the newer of what changes its mind.
ENVIRONMENT = ("SYSTEMD_IGNORE_CHROOT=1", "SYSTEMD_OFFLINE=0")


def run(node: str, script: str, *, fast: float = 60.0) -> str:
    """Runs a script with the node's own programs."""
    words = ["chroot", "/host", "env", *ENVIRONMENT, "sh", "-c", script]
    return kubectl.run("exec", "-n", workloads.NAMESPACE, _shell(node), "--", *words, fast=fast)


def run_aside(node: str, script: str) -> None:
    """The same for what ends the connection that we have: nobody waits for it."""
    run(node, f"setsid sh -c {shlex.quote(script)} >/dev/null 2>&1 </dev/null &")


def look(node: str, script: str, *, fast: float = 60.0) -> str:
    """Runs a script with the shell's own programs in the node's network, where it sees the node's processes."""
    return kubectl.run(
        "exec", "-n", workloads.NAMESPACE, _shell(node), "--", "sh", "-c", script, fast=fast
    )


def _shell(node: str) -> str:
    for one in kubectl.items("pods", "-n", workloads.NAMESPACE, "-l", f"app={NAME}"):
        if one["spec"].get("nodeName") == node:
            return str(one["metadata"]["name"])
    raise kubectl.KubectlError(f"no shell on node {node}")
