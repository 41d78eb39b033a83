"""Pods that a node has from a file: what the API has of them is an image, under another uid."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from typing import Any

import pytest
from e2e import apps, kubectl, nodes, workloads
from e2e.apps import App

NAME = "static-web"


def folder(node: str) -> str:
    """Where its kubelet looks for such files."""
    asked = kubectl.run("get", "--raw", f"/api/v1/nodes/{node}/proxy/configz")
    return str(json.loads(asked)["kubeletconfig"].get("staticPodPath", ""))


@pytest.fixture
def static(zeropod: None) -> Iterator[App]:
    """One that sleeps after a while, with a probe by which it becomes Ready some seconds after its start."""
    node = nodes.names()[0]
    path = f"{folder(node)}/{NAME}.json"
    assert path.startswith("/"), "this kubelet takes no static pods"
    probe = {"httpGet": {"port": 80}, "initialDelaySeconds": 1, "periodSeconds": 2}
    container: dict[str, Any] = workloads.nginx(readinessProbe=probe)
    pod = workloads.pod(NAME, [container], annotations={"scaledown-duration": "5s"})
    app = App(f"{NAME}-{node}")
    nodes.run(node, f"echo {shlex.quote(json.dumps(pod))} > {path}")
    try:
        kubectl.until(
            lambda: kubectl.exists("pod", "-n", workloads.NAMESPACE, app.name),
            "the API has no image of it",
        )
        app.ready()
        yield app
    finally:
        nodes.run(node, f"rm {path}")
        kubectl.until(
            lambda: not kubectl.exists("pod", "-n", workloads.NAMESPACE, app.name),
            "the kubelet does not end it",
        )


def test_static_pods_are_seen_in_the_api(static: App) -> None:
    """Their labels say who sleeps, and `kubectl describe` shows what became of them."""
    kubectl.until(
        lambda: apps.labels(static) == {"nginx": "SCALED_DOWN"}, "no label says that it sleeps"
    )
    kubectl.until(
        lambda: "ScaledDown" in kubectl.run("describe", "pod", "-n", workloads.NAMESPACE, static.name),
        "kubectl describe does not show its events",
    )  # fmt: skip
