"""Requests of pods that sleep, where something else has a say in them; and a right that is missing."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from e2e import apps, kubectl, product, workloads
from e2e.apps import App

SOON = {"scaledown-duration": "3s"}

#: Long enough to be seen awake, also where everything is slow.
LATER = {"scaledown-duration": "10s"}

USUAL = {"cpu": "50m", "memory": "40Mi"}
LEAST = {"cpu": "1m", "memory": "1Ki"}

SLEEPY = {"requests": USUAL, "limits": {"memory": "80Mi"}}


def requests(app: App) -> Any:
    """What its container asks for, by its object."""
    return app.object()["spec"]["containers"][0]["resources"]["requests"]


def kept(app: App) -> str:
    """Why it keeps its requests, by its events."""
    found = [one["message"] for one in apps.events(app) if one["reason"] == "RequestsKept"]
    return found[-1] if found else ""


def test_a_guaranteed_pod_keeps_its_requests(deploy: Callable[..., App]) -> None:
    """Kubernetes would refuse it another quality of service; `why` and an event say so."""
    app = deploy(workloads.nginx(resources={"requests": USUAL, "limits": USUAL}), annotations=SOON)
    app.asleep()
    kubectl.until(lambda: "Guaranteed" in kept(app), "no event says that it keeps its requests")
    assert requests(app) == USUAL
    assert "Guaranteed" in app.why()


def test_a_pod_of_an_autoscaler_keeps_its_requests(deploy: Callable[..., App]) -> None:
    """It would start more pods, or rather the same again and again."""
    name = "test-autoscaled"
    metric = {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 80}}
    kubectl.apply({
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"namespace": workloads.NAMESPACE, "name": name},
        "spec": {
            "maxReplicas": 1,
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment",
                               "name": "a-pod-of-an-autoscaler-keeps-its-request"},
            "metrics": [{"type": "Resource", "resource": metric}],
        },
    })  # fmt: skip
    try:
        app = deploy(workloads.nginx(resources=SLEEPY), annotations=SOON, as_deployment=True)
        assert app.name == "a-pod-of-an-autoscaler-keeps-its-request"
        app.asleep()
        kubectl.until(lambda: name in kept(app), "no event says that it keeps its requests")
        assert requests(app) == USUAL
    finally:
        kubectl.run("delete", "hpa", "-n", workloads.NAMESPACE, name)


def test_what_somebody_sets_while_it_sleeps_counts(deploy: Callable[..., App]) -> None:
    """A person, or an autoscaler that only sets requests; they are what it wakes with."""
    app = deploy(workloads.nginx(resources=SLEEPY), annotations=LATER)
    kubectl.until(lambda: requests(app) == LEAST, "its requests were not scaled down", 90)
    patch = '{"spec":{"containers":[{"name":"nginx","resources":{"requests":{"cpu":"70m"}}}]}}'
    pod = ["pod", "-n", workloads.NAMESPACE, app.pod]
    kubectl.run("patch", *pod, "--subresource=resize", "-p", patch)
    kubectl.until(lambda: requests(app) == LEAST, "they were not scaled down again", 90)
    app.fetch()
    wanted = {**USUAL, "cpu": "70m"}
    kubectl.until(lambda: requests(app) == wanted, "what was set was not given back")


def test_a_missing_right_turns_off_what_needs_it(deploy: Callable[..., App]) -> None:
    """Nothing else; a daemon that is started with the right has it again."""
    role = ["clusterrole", "zeropod-in-place-scaling"]
    rules = kubectl.get(*role)["rules"]
    less = [rule for rule in rules if rule["resources"] != ["pods/resize"]]
    assert len(less) < len(rules)
    kubectl.run("patch", *role, "--type=merge", "-p", json.dumps({"rules": less}))
    try:
        app = deploy(workloads.nginx(resources=SLEEPY), annotations=SOON)
        app.asleep()
        kubectl.until(lambda: "pods/resize" in _off(app), "status does not tell of the right", 90)
        assert role[1] in _off(app)
        assert apps.labels(app) == {"nginx": "SCALED_DOWN"}
        assert requests(app) == USUAL
    finally:
        kubectl.run("patch", *role, "--type=merge", "-p", json.dumps({"rules": rules}))
        kubectl.run("rollout", "restart", "-n", product.NAMESPACE, "daemonset/zeropod-node")
        product.rolled_out()
    kubectl.until(lambda: requests(app) == LEAST, "it was not scaled down with the right", 90)


def _off(app: App) -> str:
    """Why in-place scaling is off on its node."""
    agent = product.pod_on(app.object()["spec"]["nodeName"])["metadata"]["name"]
    words = ["exec", "-n", product.NAMESPACE, agent, "-c", product.DAEMON]
    status = json.loads(kubectl.run(*words, "--", "zeropod", "status", "-o", "json"))
    return str(status["api"].get("in-place-scaling", ""))
