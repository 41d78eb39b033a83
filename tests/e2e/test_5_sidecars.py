"""Containers that the kubelet starts before the others: init containers, and those of them that stay (sidecars)."""

from __future__ import annotations

import json
from collections.abc import Callable

from e2e import apps, kubectl, workloads
from e2e.apps import App

SOON = {"scaledown-duration": "3s"}

PROBE = {"httpGet": {"path": "/", "port": 8081}, "periodSeconds": 1, "failureThreshold": 60}


def test_a_sidecar_sleeps_and_wakes_like_its_neighbours(deploy: Callable[..., App]) -> None:
    """Behind an init container that ends well; woken by itself, by its neighbour over localhost, and for its end."""
    app = deploy(
        workloads.web("main", 8080),
        initContainers=[
            workloads.container("first", workloads.BUSYBOX, "sh", "-c", "sleep 2"),
            workloads.web("side", 8081, restartPolicy="Always", startupProbe=PROBE),
        ],
        ports=(8080, 8081),
        annotations=SOON,
    )
    app.asleep("main", "side")
    assert app.fetch(port=8081) == "I am side\n"
    assert app.states()["main"] == "ASLEEP"
    app.asleep("main", "side")
    assert app.fetch(port=8080) == "I am main\n"
    assert app.states()["side"] == "ASLEEP"
    assert ask_side(app) == "I am side\n"
    app.asleep("main", "side")
    kubectl.until(
        lambda: apps.labels(app) == {"main": "SCALED_DOWN", "side": "SCALED_DOWN"},
        "its labels are others",
    )
    status = app.object()["status"]
    both = (*status["initContainerStatuses"], *status["containerStatuses"])
    told = {one["name"]: one for one in both}
    assert {name: one["restartCount"] for name, one in told.items()} == dict.fromkeys(told, 0)
    assert told["first"]["state"]["terminated"]["exitCode"] == 0
    assert "running" in told["side"]["state"], json.dumps(told["side"])
    kubectl.run("delete", "pod", "-n", workloads.NAMESPACE, app.pod, fast=60)


def ask_side(app: App) -> str:
    """What the sidecar answers to its neighbour."""
    inside = ["exec", "-n", workloads.NAMESPACE, app.pod, "-c", "main", "--"]
    words = ["wget", "-q", "-T", "30", "-O", "-", "http://127.0.0.1:8081/"]
    return kubectl.run(*inside, *words, fast=40)
