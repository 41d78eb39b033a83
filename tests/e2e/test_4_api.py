"""What the cluster's API says of pods that sleep."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
from e2e import apps, kubectl, nodes, product, workloads
from e2e.apps import App

SOON = {"scaledown-duration": "3s"}

#: Long enough to be seen awake, also where everything is slow.
LATER = {"scaledown-duration": "10s"}


def test_labels_say_who_sleeps(deploy: Callable[..., App]) -> None:
    """Each container has a label with its state, which follows it."""
    app = deploy(workloads.web("c1", 8080), workloads.web("c2", 8081), annotations=LATER)
    asleep = {"c1": "SCALED_DOWN", "c2": "SCALED_DOWN"}
    kubectl.until(lambda: apps.labels(app) == asleep, "no label says that it sleeps")
    app.fetch(port=8081)
    kubectl.until(lambda: apps.labels(app) == {**asleep, "c2": "RUNNING"}, "no label says it woke")
    kubectl.until(lambda: apps.labels(app) == asleep, "no label says that it sleeps again")


def test_events_say_what_happened(deploy: Callable[..., App]) -> None:
    """A sleep and a wake are one event each, of the container and of our component, and no warning."""
    app = deploy(workloads.nginx(), annotations=SOON)
    app.asleep()
    app.fetch()
    kubectl.until(lambda: len(apps.events(app)) >= 2, "there are no events")
    # More of the same are counted, not added.
    app.asleep()
    found = apps.events(app)
    assert {one["reason"] for one in found} == {"ScaledDown", "Running"}
    assert {one["type"] for one in found} == {"Normal"}
    assert {one["involvedObject"]["fieldPath"] for one in found} == {"spec.containers{nginx}"}
    assert len(found) == 2


def test_requests_follow(deploy: Callable[..., App]) -> None:
    """Asleep it requests next to nothing; awake what it did before; its limits and its container stay."""
    resources = {"requests": {"cpu": "50m", "memory": "40Mi"}, "limits": {"memory": "80Mi"}}
    app = deploy(workloads.nginx(resources=resources), annotations=LATER)

    def allocated() -> Any:
        return app.object()["status"]["containerStatuses"][0].get("allocatedResources")

    least, usual = {"cpu": "1m", "memory": "1Ki"}, resources["requests"]
    kubectl.until(lambda: allocated() == least, "its requests were not scaled down", 90)
    app.fetch()
    kubectl.until(lambda: allocated() == usual, "its requests were not given back", 90)
    assert app.object()["spec"]["containers"][0]["resources"]["limits"] == {"memory": "80Mi"}
    assert app.restarts() == 0


def test_nodes_say_that_they_are_ready(zeropod: None) -> None:
    """`kubectl describe node` shows what came of the installation."""
    for node in nodes.names():
        conditions = kubectl.get("node", node)["status"]["conditions"]
        found = next(one for one in conditions if one["type"] == "ZeropodReady")
        assert found["status"] == "True", found


def metrics(app: App) -> dict[str, float]:
    """The samples of its container, summed up by name."""
    agent = product.pod_on(app.object()["spec"]["nodeName"])
    text = apps.client("wget", "-q", "-O", "-", f"http://{agent['status']['podIP']}:9419/metrics")
    found: dict[str, float] = {}
    for line in text.splitlines():
        if f'pod="{app.pod}"' in line:
            name, _, rest = line.partition("{")
            found[name] = found.get(name, 0.0) + float(rest.rpartition("}")[2].split()[0])
    return found


def test_metrics_count(deploy: Callable[..., App]) -> None:
    """The original's metrics say whether it runs, when it slept and woke, how long that took and what failed."""
    app = deploy(workloads.nginx(), annotations=LATER)
    assert metrics(app)["zeropod_running"] == 1
    app.asleep()
    asleep = metrics(app)
    assert asleep["zeropod_running"] == 0
    assert asleep["zeropod_last_checkpoint_time"] > 0
    assert asleep["zeropod_checkpoint_duration_seconds_count"] >= 1
    app.fetch()
    awake = metrics(app)
    assert awake["zeropod_last_restore_time"] > 0
    assert awake["zeropod_restore_duration_seconds_count"] >= 1
    assert awake.get("zeropod_checkpoint_errors_total", 0) == 0
    assert awake.get("zeropod_restore_errors_total", 0) == 0


def usage(app: App) -> dict[str, float]:
    """What its node's kubelet has measured of it last, by resource: `kubectl top` shows that, through metrics-server."""
    node = app.object()["spec"]["nodeName"]
    text = kubectl.run("get", "--raw", f"/api/v1/nodes/{node}/proxy/metrics/resource")
    return {
        line.partition("{")[0]: float(line.rpartition("}")[2].split()[0])
        for line in text.splitlines()
        if line.startswith("container_") and f'pod="{app.pod}"' in line
    }


def test_what_is_used_is_measured(deploy: Callable[..., App]) -> None:
    """Asleep a part of the files that it has read is left, and never a 0: metrics-server leaves out pods with one."""
    redis = workloads.container("redis", workloads.REDIS, port=6379)
    app = deploy(redis, annotations={"scaledown-duration": "1h"})
    cpu, memory = "container_cpu_usage_seconds_total", "container_memory_working_set_bytes"
    assert app.redis("setrange", "key", "30000000", "x")
    kubectl.until(lambda: usage(app)[memory] > 20e6, "awake it is not measured", 90)
    product.zeropod(app.object(), "sleep")
    kubectl.until(lambda: 0 < usage(app)[memory] < 10e6, "asleep it uses as much", 90)
    assert usage(app)[cpu] > 0


@pytest.mark.parametrize("words", [("list",), ("why",)])
def test_the_daemon_is_asked_on_its_node(
    deploy: Callable[..., App], words: tuple[str, ...]
) -> None:
    """`zeropod list` and `why` in our pod know the pod by its name and say that it sleeps."""
    app = deploy(workloads.nginx(), annotations=SOON)
    app.asleep()
    agent = product.pod_on(app.object()["spec"]["nodeName"])["metadata"]["name"]
    command = ["zeropod", *words, f"{workloads.NAMESPACE}/{app.pod}"]
    told = kubectl.run("exec", "-n", product.NAMESPACE, agent, "--", *command)
    assert app.pod in told
    assert "asleep" in told.lower()


def test_who_sleeps_costs_the_api_nothing(deploy: Callable[..., App]) -> None:
    """While nothing changes no object of the pod is written: its version stays."""
    app = deploy(workloads.nginx(), annotations=SOON)
    app.asleep()
    kubectl.until(
        lambda: apps.labels(app) == {"nginx": "SCALED_DOWN"}, "no label says that it sleeps"
    )
    time.sleep(5)
    version = app.object()["metadata"]["resourceVersion"]
    time.sleep(10)
    assert app.object()["metadata"]["resourceVersion"] == version
