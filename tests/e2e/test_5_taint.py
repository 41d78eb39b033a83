"""Nodes that register with a taint of ours take no pods before zeropod is there."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from e2e import kubectl, nodes, product, workloads
from e2e.apps import App

TAINT = "zeropod.ctrox.dev/not-ready"

COMPONENT = "manifests/components/startup-taint"

ROLE = ["clusterrole/zeropod-startup-taint", "clusterrolebinding/zeropod-startup-taint"]

NAME = "faster-than-zeropod"


@pytest.fixture
def overlay(tmp_path: Path) -> Iterator[Path]:
    """What is installed, with one component more; afterwards it is without."""
    here = tmp_path.resolve()
    base, component = (os.path.relpath(name, here) for name in (product.OVERLAY, COMPONENT))
    text = f"resources: [{base}]\ncomponents: [{component}]\n"
    (here / "kustomization.yaml").write_text(text)
    yield here
    kubectl.run("apply", "-k", product.OVERLAY)
    kubectl.run("delete", "--ignore-not-found", *ROLE)
    product.rolled_out()


@pytest.fixture
def tainted(zeropod: None) -> Iterator[None]:
    """Every node as it is when it has just registered."""
    kubectl.run("taint", "node", "--all", "--overwrite", f"{TAINT}=:NoSchedule")
    yield
    if taints():
        kubectl.run("taint", "node", "--all", f"{TAINT}-")


def taints() -> list[str]:
    """The nodes that have it."""
    return [
        node
        for node in nodes.names()
        for one in kubectl.get("node", node)["spec"].get("taints", ())
        if one["key"] == TAINT
    ]


@pytest.fixture
def early(tainted: None) -> Iterator[App]:
    """A pod that may not be anywhere yet."""
    annotations = {"scaledown-duration": "3s"}
    kubectl.apply(workloads.pod(NAME, [workloads.nginx()], annotations=annotations))
    yield App(NAME)
    kubectl.run("delete", "pod", "-n", workloads.NAMESPACE, NAME, "--wait=false")


def test_nodes_take_pods_when_zeropod_is_there(early: App, overlay: Path) -> None:
    """It waits for a node, and is managed on the one that it gets."""
    kubectl.until(lambda: unschedulable(early), "the scheduler has a place for it")
    assert taints() == nodes.names()

    kubectl.run("apply", "-k", str(overlay))

    kubectl.until(lambda: not taints(), "a node keeps its taint", 180)
    product.rolled_out()
    early.ready()
    early.asleep()
    assert early.restarts() == 0


def unschedulable(app: App) -> bool:
    """Whether the scheduler has said so."""
    conditions = app.object()["status"].get("conditions", [])
    return any(one.get("reason") == "Unschedulable" for one in conditions)
