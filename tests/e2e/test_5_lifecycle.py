"""Pods asleep, while everything around them is changed, restarted or away."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import time
from collections.abc import Callable
from typing import Any

import pytest
from e2e import kubectl, nodes, product, workloads
from e2e.apps import App, client, inside

SOON = {"scaledown-duration": "3s"}

#: A program that reboots the node whose name it is given, and returns when it has.
REBOOT = os.environ.get("ZEROPOD_E2E_REBOOT", "")


@pytest.fixture
def redis(deploy: Callable[..., App]) -> App:
    """A database with something in its memory, asleep."""
    app = deploy(workloads.container("redis", workloads.REDIS, port=6379), annotations=SOON)
    assert app.redis("set", "key", "kept") == "OK"
    app.asleep()
    return app


def restarts(pod: Any) -> int:
    """How often each container of a pod was restarted at least."""
    return min(one["restartCount"] for one in pod["status"]["containerStatuses"])


def ours(node: str) -> list[Any]:
    """What runs of zeropod on a node."""
    return [one for one in product.pods() if one["spec"].get("nodeName") == node]


def test_a_sleeping_pod_is_deleted(deploy: Callable[..., App]) -> None:
    """It is woken to end as it would have awake: what its SIGTERM handler says is in the log, within the grace period.

    It is given that, too: it does not fall asleep again while it shuts down.
    """
    script = "trap 'sleep 8; echo goodbye; exit 0' TERM; httpd -p 8080; while :; do sleep 1; done"
    app = deploy(
        workloads.container("web", workloads.BUSYBOX, "sh", "-c", script, port=8080),
        annotations={**SOON, "cpu-threshold": "0"},
        terminationGracePeriodSeconds=60,
    )
    app.asleep()
    assert "goodbye" in app.deleted(fast=120)


def test_a_deployment_is_rolled_out_asleep(deploy: Callable[..., App]) -> None:
    """The new pod comes up, the sleeping one ends, and the Service answers."""
    app = deploy(workloads.nginx(), annotations=SOON, as_deployment=True)
    app.asleep()
    before = app.pod
    words = ["-n", workloads.NAMESPACE, f"deployment/{app.name}"]
    kubectl.run("set", "env", *words, "CHANGED=yes")
    kubectl.run("rollout", "status", *words, "--timeout=90s", fast=100)
    assert app.pod != before
    gone = ["pod", "-n", workloads.NAMESPACE, before]
    kubectl.until(lambda: not kubectl.exists(*gone), "the old pod is still there")
    # As with any rollout, a connection may have been led to the pod that was just ending.
    kubectl.until(lambda: "nginx" in app.fetch(fast=10), "the new pod does not answer", 120)
    app.asleep()


def strict() -> dict[str, Any]:
    """A liveness probe that has a container restarted after four seconds."""
    return {"httpGet": {"path": "/", "port": 80}, "periodSeconds": 2, "failureThreshold": 2}


def test_a_rollout_loses_no_request(deploy: Callable[..., App]) -> None:
    """With the pause before its end that any pod behind a Service needs, until nobody is led to it any more."""
    pause = {"preStop": {"sleep": {"seconds": 8}}}
    probe = {"httpGet": {"path": "/", "port": 80}, "periodSeconds": 1}
    app = deploy(
        workloads.nginx(lifecycle=pause, readinessProbe=probe),
        annotations=SOON,
        as_deployment=True,
        terminationGracePeriodSeconds=60,
    )
    app.asleep()
    before, over = app.pod, f"/tmp/{app.name}"
    ask = f"until [ -e {over} ]; do wget -q -T 60 -O /dev/null http://{app.address()}/ || echo lost; done"
    words = ["-n", workloads.NAMESPACE, f"deployment/{app.name}"]
    kubectl.run("set", "env", *words, "CHANGED=yes")
    with kubectl.background(*inside("busybox"), "sh", "-c", ask) as asking:
        gone = ["pod", "-n", workloads.NAMESPACE, before]
        kubectl.until(lambda: not kubectl.exists(*gone), "the old pod is still there", 120)
        client("touch", over)
        told, _ = asking.communicate(timeout=120)
    assert (told, asking.returncode) == ("", 0)


def test_the_daemon_set_is_upgraded(redis: App, deploy: Callable[..., App]) -> None:
    """New pods of ours take over what sleeps: it sleeps on, its probes are answered, and it wakes with its memory."""
    probed = deploy(workloads.nginx(livenessProbe=strict()), annotations=SOON)
    probed.asleep()
    redis.asleep()
    wakes = redis.info()["wakes"], probed.info()["wakes"]
    before = {one["metadata"]["uid"] for one in product.pods()}
    words = ["-n", product.NAMESPACE, f"daemonset/{product.DAEMON_SET}"]
    kubectl.run("rollout", "restart", *words)
    product.rolled_out()
    assert not before & {one["metadata"]["uid"] for one in product.pods()}
    redis.asleep()
    probed.asleep()
    assert (redis.info()["wakes"], probed.info()["wakes"]) == wakes
    assert redis.redis("get", "key") == "kept"
    assert "nginx" in probed.fetch()
    assert redis.restarts() == probed.restarts() == 0


def test_probes_are_answered_while_we_are_away(deploy: Callable[..., App]) -> None:
    """Of a pod with a strict liveness probe nothing is restarted, though for half a minute the node has no zeropod."""
    app = deploy(workloads.nginx(livenessProbe=strict()), annotations=SOON)
    app.asleep()
    node = app.object()["spec"]["nodeName"]
    kubectl.run("label", "node", node, f"{product.LABEL}-")
    try:
        kubectl.until(lambda: not ours(node), "our pod does not leave the node", 120)
        time.sleep(30)
        assert app.restarts() == 0
    finally:
        kubectl.run("label", "node", node, f"{product.LABEL}=true")
        kubectl.until(lambda: ours(node), "no pod of ours comes back")
        product.rolled_out()
    app.asleep()
    assert "nginx" in app.fetch()
    assert app.restarts() == 0


@pytest.mark.parametrize("service", ["containerd", "kubelet"])
def test_a_service_of_the_node_is_restarted(
    redis: App, deploy: Callable[..., App], service: str
) -> None:
    """What sleeps sleeps on and wakes with its memory; pods made afterwards are managed, too."""
    node = redis.object()["spec"]["nodeName"]
    before = nodes.look(node, f"pidof {service}")
    nodes.run_aside(node, f"systemctl restart {service}")
    kubectl.until(
        lambda: nodes.look(node, f"pidof {service}") not in ("", before),
        f"{service} is not restarted",
    )
    product.rolled_out()
    redis.asleep()
    assert redis.redis("get", "key") == "kept"
    assert redis.restarts() == 0
    deploy(workloads.nginx(), annotations=SOON).asleep()


def away() -> bool:
    """Whether the API server does not answer."""
    try:
        kubectl.run("get", "--raw", "/readyz", "--request-timeout=2s")
    except kubectl.KubectlError:
        return True
    return False


def test_the_api_server_is_away(redis: App) -> None:
    """Pods wake and sleep while nobody answers at the API."""
    node, address = redis.object()["spec"]["nodeName"], redis.object()["status"]["podIP"]
    note = "/run/zeropod-e2e"
    asked = (
        f"exec 3<>/dev/tcp/{address}/6379; printf 'GET key\\r\\n' >&3; timeout 30 head -n 2 <&3"
    )
    script = f"{nodes.STOP_API}; sleep 3; bash -c {shlex.quote(asked)} > {note}; sleep 15; {nodes.START_API}"
    nodes.run_aside(node, script)
    kubectl.until(away, "the API server still answers")
    kubectl.until(
        lambda: kubectl.run("get", "--raw", "/readyz") == "ok", "the API server is not back", 120
    )
    told = nodes.run(node, f"cat {note}; rm {note}")
    assert "kept" in told
    redis.asleep()
    assert redis.restarts() == 0


def test_a_node_is_drained(deploy: Callable[..., App]) -> None:
    """Sleeping pods are evicted as any others; when the node takes pods again they are managed."""
    app = deploy(workloads.nginx(), annotations=SOON, as_deployment=True)
    app.asleep()
    before, node = app.pod, app.object()["spec"]["nodeName"]
    selector = f"--pod-selector=app={app.name}"
    try:
        kubectl.run("drain", node, "--ignore-daemonsets", selector, "--timeout=90s", fast=100)
        assert not kubectl.exists("pod", "-n", workloads.NAMESPACE, before)
    finally:
        kubectl.run("uncordon", node)
    app.ready()
    app.asleep()
    assert "nginx" in app.fetch()


@pytest.mark.skipif(not REBOOT, reason="nobody says how to reboot a node: ZEROPOD_E2E_REBOOT")
def test_a_node_is_rebooted(deploy: Callable[..., App]) -> None:
    """Pods start afresh, as they do without us: those that were quicker than we are say so, new ones are managed."""
    app = deploy(workloads.nginx(), annotations=SOON)
    app.asleep()
    before = {one["metadata"]["uid"]: restarts(one) for one in product.pods()}

    def again() -> bool:
        found = product.pods()
        return all(restarts(one) > before.get(one["metadata"]["uid"], -1) for one in found)

    subprocess.run([*shlex.split(REBOOT), app.object()["spec"]["nodeName"]], check=True)
    # Until kubelet has looked, all is as before.
    kubectl.until(lambda: app.restarts() >= 1, "its container was not started again", 120)
    kubectl.until(again, "neither was ours", 120)
    product.rolled_out()
    app.ready()
    if kubectl.until(app.states, "the daemon does not know it") == {"nginx": "UNMANAGED"}:
        # Created before the plugin was connected, or before it could answer in time.
        assert re.search("delete the pod|restart the container", app.why())
    else:
        app.asleep()
    new = deploy(workloads.nginx(), annotations=SOON)
    new.asleep()
    assert "nginx" in new.fetch()
