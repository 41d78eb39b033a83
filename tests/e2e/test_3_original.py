"""The cases of the original project's own suite."""

from __future__ import annotations

import concurrent.futures
import time
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from e2e import apps, workloads
from e2e.apps import App

SOON = {"scaledown-duration": "3s"}

#: Long enough to be seen awake, also where everything is slow.
LATER = {"scaledown-duration": "8s"}

#: Longer than anything that falls asleep takes to do so.
LONG = 10.0


@pytest.mark.parametrize(
    ("more", "spec"),
    [
        pytest.param({}, {}, id="plain"),
        pytest.param({}, {"runtimeClassName": "zeropod"}, id="runtimeclass"),
        pytest.param({"pre-dump": "true"}, {}, id="pre-dump"),
        pytest.param({"disable-checkpointing": "true"}, {}, id="no-checkpoint"),
    ],
)
def test_it_scales_down_and_answers(
    deploy: Callable[..., App], more: Mapping[str, str], spec: Mapping[str, str]
) -> None:
    """A pod scales down and answers the next request; with and without pre-dump, and without a checkpoint."""
    app = deploy(workloads.nginx(), annotations={**SOON, **more}, **spec)
    app.asleep()
    assert "nginx" in app.fetch()
    app.asleep()
    assert "nginx" in app.fetch()
    assert app.restarts() == 0


def test_requests_in_a_row_wake_once(deploy: Callable[..., App]) -> None:
    """Traffic keeps it awake: of twenty requests, one each 200 ms, the first wakes and no other finds it asleep."""
    app = deploy(workloads.nginx(), annotations=LATER)
    app.asleep()
    wakes = app.info()["wakes"]
    script = "for i in $(seq 20); do wget -q -T 30 -O /dev/null $0 || exit 1; usleep 200000; done"
    apps.client("sh", "-c", script, f"http://{app.address()}/", fast=60)
    assert app.info()["wakes"] == wakes + 1


def test_the_default_is_a_minute(deploy: Callable[..., App]) -> None:
    """A pod that asks for zeropod and sets nothing runs on for now."""
    app = deploy(workloads.nginx(), annotations={"container-names": "nginx"})
    time.sleep(LONG)
    assert app.states() == {"nginx": "RUNNING"}


def test_the_runtime_class_is_enough(deploy: Callable[..., App]) -> None:
    """A pod of the original's says runtimeClassName and no annotation: it is managed."""
    app = deploy(workloads.nginx(), runtimeClassName="zeropod")
    assert app.states() == {"nginx": "RUNNING"}


def test_zero_is_never(deploy: Callable[..., App]) -> None:
    """With a scaledown-duration of 0 it stays awake."""
    app = deploy(workloads.nginx(), annotations={"scaledown-duration": "0"})
    time.sleep(LONG)
    assert app.states() == {"nginx": "RUNNING"}


def test_containers_scale_by_themselves(deploy: Callable[..., App]) -> None:
    """Of two containers in a pod a request wakes the one that it is for."""
    app = deploy(workloads.web("c1", 8080), workloads.web("c2", 8081), annotations=LATER)
    app.asleep()
    assert app.fetch(port=8080) == "I am c1\n"
    assert app.states() == {"c1": "RUNNING", "c2": "ASLEEP"}
    assert app.fetch(port=8081) == "I am c2\n"
    app.asleep()


def test_some_containers_are_chosen(deploy: Callable[..., App]) -> None:
    """Only the named containers scale down, one of them behind a startup probe."""
    probe = {"httpGet": {"path": "/", "port": 8082}, "periodSeconds": 1, "failureThreshold": 30}
    app = deploy(
        workloads.web("c1", 8080),
        workloads.web("c2", 8081),
        workloads.web("c3", 8082, startupProbe=probe),
        annotations={**SOON, "container-names": "c1,c3"},
    )
    app.asleep("c1", "c3")
    assert app.states()["c2"] == "UNMANAGED"
    assert app.fetch(port=8082) == "I am c3\n"
    assert app.states()["c1"] == "ASLEEP"


@pytest.mark.parametrize("keepalive", [False, True])
def test_parallel_requests_are_all_answered(deploy: Callable[..., App], keepalive: bool) -> None:
    """Ten clients at once, five times: each gets its page, on one connection or on five."""
    app = deploy(workloads.nginx(), annotations=SOON)
    header = "keep-alive" if keepalive else "close"
    request = f"GET / HTTP/1.1\\r\\nHost: web\\r\\nConnection: {header}\\r\\n\\r\\n"
    ask = f"printf '{request}'; sleep 1; "
    if keepalive:
        script = f"({ask * 5} sleep 1) | nc -w 30 {app.address()} 80"
    else:
        script = f"for i in 1 2 3 4 5; do ({ask}) | nc -w 30 {app.address()} 80; done"
    app.asleep()
    with concurrent.futures.ThreadPoolExecutor(10) as pool:
        asked = [pool.submit(apps.client, "sh", "-c", script, fast=90) for _ in range(10)]
        answers = [one.result() for one in asked]
    assert [answer.count("200 OK") for answer in answers] == [5] * 10
    assert app.restarts() == 0


def probe_of(**kind: Any) -> dict[str, Any]:
    return {**kind, "periodSeconds": 1, "failureThreshold": 3}


@pytest.mark.parametrize(
    ("serve", "probe"),
    [
        pytest.param(workloads.nginx, {"httpGet": {"path": "/", "port": 80}}, id="http"),
        pytest.param(workloads.nginx, {"tcpSocket": {"port": 80}}, id="tcp"),
        pytest.param(workloads.nginx, {"httpGet": {"path": "/?" + "x" * 1024, "port": 80}}, id="large"),
        # One socket of IPv6 for both: the kubelet's address is a mapped one there.
        pytest.param(workloads.web, {"httpGet": {"path": "/", "port": 80}}, id="mapped"),
    ],
)  # fmt: skip
def test_probes_do_not_wake(
    deploy: Callable[..., App], serve: Callable[..., dict[str, Any]], probe: Mapping[str, Any]
) -> None:
    """Kubelet's liveness probe each second: it scales down, stays so, is not restarted, and answers requests."""
    app = deploy(serve("nginx", port=80, livenessProbe=probe_of(**probe)), annotations=SOON)
    app.asleep()
    wakes = app.info()["wakes"]
    time.sleep(LONG)
    assert app.states() == {"nginx": "ASLEEP"}
    assert app.info()["wakes"] == wakes
    assert "nginx" in app.fetch()
    app.asleep()
    assert app.restarts() == 0


def test_deleted_after_a_restore(deploy: Callable[..., App]) -> None:
    """A pod that has slept and woken ends as any other."""
    # Were it not to end by itself, nothing would end it in time.
    app = deploy(workloads.nginx(), annotations=SOON, terminationGracePeriodSeconds=600)
    app.asleep()
    app.fetch()
    app.deleted()
