"""Probes of a real kubelet: those of a pod that sleeps are answered, and everything else of its node's is a request."""

from __future__ import annotations

import base64
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from e2e import kubectl, nodes, workloads
from e2e.apps import App

SOON = {"scaledown-duration": "3s"}

#: As that of a kubelet: anybody can say so.
PRETENDED = "kube-probe/1"

#: HTTP for who sends a certain header, HTTPS, and a health check of gRPC: one message, SERVING, and a trailer. The
#: kubelet has no other method for them. criu can dump processes of root everywhere.
NGINX = """\
user root;
worker_processes 1;
error_log /dev/stderr;
pid /tmp/nginx.pid;
events {}
http {
  access_log off;
  server {
    listen 80;
    if ($http_x_probe != "yes") { return 403; }
    return 200 "plain";
  }
  server {
    listen 443 ssl;
    ssl_certificate /etc/nginx/own/tls.pem;
    ssl_certificate_key /etc/nginx/own/tls.pem;
    return 200 "secure";
  }
  server {
    listen 9000;
    http2 on;
    root /etc/nginx/own;
    location = /grpc.health.v1.Health/Check {
      error_page 404 =200 /serving;
    }
    location = /serving {
      default_type application/grpc;
      add_trailer grpc-status 0;
    }
  }
}
"""

SERVING = b"\0\0\0\0\2\x08\1"


def often(**kind: Any) -> dict[str, Any]:
    """A probe each second, which may fail three times."""
    return {**kind, "periodSeconds": 1, "failureThreshold": 3, "timeoutSeconds": 5}


@pytest.fixture
def files(tmp_path: Path) -> str:
    """A ConfigMap with all that nginx needs."""
    pem = tmp_path / "tls.pem"
    words = ["req", "-x509", "-nodes", "-newkey", "rsa:2048", "-subj", "/CN=web", "-days", "2"]
    subprocess.run(
        ["openssl", *words, "-keyout", pem, "-out", tmp_path / "crt"],
        check=True,
        capture_output=True,
    )
    name = "every-probe"
    kubectl.apply({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"namespace": workloads.NAMESPACE, "name": name},
        "data": {"nginx.conf": NGINX, "tls.pem": pem.read_text() + (tmp_path / "crt").read_text()},
        "binaryData": {"serving": base64.b64encode(SERVING).decode()},
    })  # fmt: skip
    return name


def test_every_kind_is_answered(deploy: Callable[..., App], files: str) -> None:
    """HTTP with a header, HTTPS and gRPC, by name and by number of a port: the pod stays Ready and asleep."""
    names = ("nginx.conf", "tls.pem", "serving")
    mounts = [
        # Single files: a directory would be swapped for another one by the kubelet while they are open.
        {"name": "files", "subPath": name,
         "mountPath": "/etc/nginx/" + (name if name == "nginx.conf" else f"own/{name}")}
        for name in names
    ]  # fmt: skip
    header = [{"name": "X-Probe", "value": "yes"}]
    container = workloads.container(
        "nginx", workloads.NGINX,
        ports=[{"name": "plain", "containerPort": 80}, {"name": "secure", "containerPort": 443}],
        volumeMounts=mounts,
        startupProbe=often(httpGet={"path": "/", "port": "plain", "httpHeaders": header}),
        readinessProbe=often(httpGet={"path": "/well", "port": "secure", "scheme": "HTTPS"}),
        livenessProbe=often(grpc={"port": 9000}),
    )  # fmt: skip
    volume = {"name": "files", "configMap": {"name": files}}
    app = deploy(container, annotations=SOON, volumes=[volume])
    app.asleep()
    wakes, since = app.info()["wakes"], ready_since(app)
    time.sleep(10)
    assert app.states() == {"nginx": "ASLEEP"}
    assert app.info()["wakes"] == wakes
    assert ready_since(app) == since
    with pytest.raises(kubectl.KubectlError, match="403"):
        app.fetch()
    app.asleep()
    assert app.info()["wakes"] == wakes + 1
    assert ready_since(app) == since
    assert app.restarts() == 0


def readiness(app: App) -> Any:
    """What the API has of it."""
    return next(one for one in app.object()["status"]["conditions"] if one["type"] == "Ready")


def ready_since(app: App) -> str:
    """Since when it is Ready; a failure if it is not."""
    found = readiness(app)
    assert found["status"] == "True", found
    return str(found["lastTransitionTime"])


@pytest.mark.parametrize("service", [True, False], ids=["NodePort", "pod"])
def test_who_only_looks_like_a_probe_wakes(deploy: Callable[..., App], service: bool) -> None:
    """A client in the node's own network, with the kubelet's address and User-Agent, gets the application's answer."""
    app = deploy(workloads.nginx(livenessProbe=often(httpGet={"path": "/", "port": 80})), annotations=SOON,
                 service="NodePort")  # fmt: skip
    app.asleep()
    found = app.object()
    node, where = found["spec"]["nodeName"], found["status"]["podIP"]
    if service:
        known = kubectl.get("service", "-n", workloads.NAMESPACE, app.name)
        where = f"{nodes.address(node)}:{known['spec']['ports'][0]['nodePort']}"
    ask = f"wget -q -T 30 -U {PRETENDED} -O - http://{where}/"
    assert "nginx" in nodes.look(node, ask)
    assert app.info()["wake_cause"] == "tcp-connect"
    assert app.restarts() == 0


def test_a_hook_wakes(deploy: Callable[..., App]) -> None:
    """The application itself answers what preStop asks for, before it is ended."""
    hook = {"preStop": {"httpGet": {"path": "/?goodbye", "port": 80}}}
    app = deploy(workloads.nginx(lifecycle=hook), annotations=SOON)
    app.asleep()
    told = app.deleted()
    assert "/?goodbye" in told
    assert "kube-lifecycle" in told


def test_an_exec_probe_wakes(deploy: Callable[..., App]) -> None:
    """It needs the application; `why` names the probe and says what does not wake."""
    probe = {"exec": {"command": ["redis-cli", "ping"]}, "periodSeconds": 10, "timeoutSeconds": 8}
    redis = workloads.container("redis", workloads.REDIS, port=6379, livenessProbe=probe)
    app = deploy(redis, annotations={"scaledown-duration": "1s"})
    app.asleep()
    assert "liveness probe starts a program" in app.why()
    wakes = app.info()["wakes"]
    kubectl.until(lambda: app.info()["wakes"] > wakes, "its probe does not wake it")
    assert app.info()["wake_cause"] == "exec"
    assert app.restarts() == 0


def is_ready(app: App) -> bool:
    """Whether the kubelet says so."""
    return bool(readiness(app)["status"] == "True")


def test_who_is_not_ready_does_not_sleep(deploy: Callable[..., App]) -> None:
    """Nobody would know that it is well again, and no request would come to wake it."""
    probe = often(httpGet={"path": "/index.html", "port": 8080})
    app = deploy(workloads.web(readinessProbe=probe), annotations={"scaledown-duration": "8s"})
    inside = ["exec", "-n", workloads.NAMESPACE, app.pod, "--", "sh", "-c"]
    kubectl.run(*inside, "mv /tmp/www/index.html /tmp/aside")
    kubectl.until(lambda: not is_ready(app), "it is Ready")
    kubectl.until(lambda: "not Ready" in app.why(), "why does not say what keeps it awake")
    time.sleep(12)
    assert app.states() == {"web": "RUNNING"}
    kubectl.run(*inside, "mv /tmp/aside /tmp/www/index.html")
    app.ready()
    app.asleep()


def test_who_could_not_be_woken_is_not_ready(deploy: Callable[..., App]) -> None:
    """Services lead to others meanwhile. It is not restarted for that, and is Ready when a wake can work again."""
    ready, live = (often(httpGet={"path": path, "port": 80}) for path in ("/?ready", "/?live"))
    app = deploy(workloads.nginx(readinessProbe=ready, livenessProbe=live), annotations=SOON)
    app.asleep()
    found = app.object()
    node, container = found["spec"]["nodeName"], found["status"]["containerStatuses"][0]
    image = f"/var/lib/zeropod/images/{container['containerID'].rpartition('/')[2]}"
    nodes.run(node, f"mv {image} {image}.e2e")
    try:
        kubectl.until(lambda: not is_ready(app), "it is Ready without its image")
        time.sleep(8)
        assert not is_ready(app)
        assert app.states() == {"nginx": "ASLEEP"}
    finally:
        nodes.run(node, f"mv {image}.e2e {image}")
    app.ready()
    assert "nginx" in app.fetch()
    assert app.restarts() == 0
