"""A sleeping pod is reached in every way in which a pod is reached."""

from __future__ import annotations

import re
import urllib.request
from collections.abc import Callable

import pytest
from e2e import apps, kubectl, nodes, workloads
from e2e.apps import App

SOON = {"scaledown-duration": "3s"}


@pytest.fixture
def sleeper(deploy: Callable[..., App]) -> App:
    """nginx, asleep."""
    app = deploy(workloads.nginx(), annotations=SOON, service="NodePort")
    app.asleep()
    return app


def test_a_request_through_a_service_wakes(sleeper: App) -> None:
    """The client of a Service gets its page, and the container was never restarted; then it sleeps again."""
    assert "nginx" in sleeper.fetch()
    assert sleeper.info()["wake_cause"] == "tcp-connect"
    sleeper.asleep()
    assert "nginx" in sleeper.fetch()
    assert sleeper.restarts() == 0


def test_a_request_through_a_node_port_wakes(sleeper: App) -> None:
    """From the pod's own node, whose address is the kubelet's, it is a request like any other."""
    found = kubectl.get("service", "-n", workloads.NAMESPACE, sleeper.name)
    node, port = sleeper.object()["spec"]["nodeName"], found["spec"]["ports"][0]["nodePort"]
    assert "nginx" in nodes.look(node, f"wget -q -T 30 -O - http://{nodes.address(node)}:{port}/")


def test_a_port_forward_wakes(sleeper: App) -> None:
    """`kubectl port-forward` connects inside of the pod's network."""
    words = ["port-forward", "-n", workloads.NAMESPACE, f"pod/{sleeper.pod}", ":80"]
    with kubectl.background(*words) as running:
        assert running.stdout
        line = running.stdout.readline()
        found = re.search(r"127\.0\.0\.1:(\d+)", line)
        assert found, line
        with urllib.request.urlopen(f"http://127.0.0.1:{found[1]}/", timeout=40) as answer:
            assert b"nginx" in answer.read()


def test_an_exec_wakes(deploy: Callable[..., App]) -> None:
    """`kubectl exec` finds the application's memory as it was, with its input and its exit status."""
    redis = deploy(workloads.container("redis", workloads.REDIS, port=6379), annotations=SOON)
    words = ["exec", "-i", "-n", workloads.NAMESPACE, redis.pod, "--"]
    assert "OK" in kubectl.run(*words, "redis-cli", "set", "key", "kept")
    redis.asleep()
    assert "kept" in kubectl.run(*words, "redis-cli", "get", "key")
    redis.asleep()
    assert kubectl.run(*words, "cat", stdin="typed") == "typed"
    with pytest.raises(kubectl.KubectlError, match="exit code 7"):
        kubectl.run(*words, "sh", "-c", "exit 7")
    assert redis.restarts() == 0


def test_a_connection_is_kept_through_a_sleep(deploy: Callable[..., App]) -> None:
    """A client that was silent while the pod slept goes on, on the same connection."""
    redis = deploy(workloads.container("redis", workloads.REDIS, port=6379), annotations=SOON)
    script = f"(echo SET k v; sleep 12; echo GET k) | redis-cli -h {redis.address()}"
    with kubectl.background(*apps.inside("redis"), "sh", "-c", script) as running:
        redis.asleep()
        told, _ = running.communicate(timeout=60)
    assert told.split() == ["OK", "v"]
    assert redis.info()["wake_cause"] == "tcp-data"
    assert redis.restarts() == 0


def test_logs_are_followed_across_a_sleep(deploy: Callable[..., App]) -> None:
    """`kubectl logs -f` stays connected while the pod sleeps, and shows what is written after the wake."""
    app = deploy(workloads.nginx(), annotations=SOON)
    with kubectl.background("logs", "-f", "-n", workloads.NAMESPACE, app.pod) as running:
        app.fetch("/?before")
        app.asleep()
        app.fetch("/?after")
        assert running.stdout
        seen = []
        while not any("?after" in line for line in seen):
            line = running.stdout.readline()
            assert line, seen
            seen.append(line)
    assert any("?before" in line for line in seen)
