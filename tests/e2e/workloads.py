"""What people deploy, as objects of the API; images have the names that a registry gives them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

PREFIX = "zeropod.ctrox.dev/"

NAMESPACE = "sleepers-e2e"

NGINX, REDIS, BUSYBOX = "nginx:1.29", "redis:8", "busybox:1.37"


def container(name: str, image: str, *command: str, port: int = 0, **more: Any) -> dict[str, Any]:
    """A container of a pod."""
    found: dict[str, Any] = {"name": name, "image": image, **more}
    if command:
        found["command"] = list(command)
    if port:
        found["ports"] = [{"containerPort": port}]
    return found


def nginx(name: str = "nginx", port: int = 80, **more: Any) -> dict[str, Any]:
    """A web server that says what it is."""
    return container(name, NGINX, port=port, **more)


def web(name: str = "web", port: int = 8080, **more: Any) -> dict[str, Any]:
    """A web server that says `I am NAME`, below any number of folders of 255 letters."""
    script = f"mkdir /tmp/www; cd /tmp/www; echo I am {name} > index.html; exec httpd -f -v -p {port} -h /tmp/www"
    return container(name, BUSYBOX, "sh", "-c", script, port=port, **more)


def pod(
    name: str,
    containers: Sequence[Mapping[str, Any]],
    *,
    annotations: Mapping[str, str] | None = None,
    namespace: str = NAMESPACE,
    **spec: Any,
) -> dict[str, Any]:
    """A pod, found by Services as `app: NAME`."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"namespace": namespace, "name": name, **template(name, annotations)},
        "spec": {"containers": list(containers), "terminationGracePeriodSeconds": 10, **spec},
    }


def deployment(
    name: str,
    containers: Sequence[Mapping[str, Any]],
    *,
    annotations: Mapping[str, str] | None = None,
    **spec: Any,
) -> dict[str, Any]:
    """A Deployment of such a pod."""
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"namespace": NAMESPACE, "name": name},
        "spec": {
            "selector": {"matchLabels": {"app": name}},
            "template": {
                "metadata": template(name, annotations),
                "spec": {"containers": list(containers), "terminationGracePeriodSeconds": 10, **spec},
            },
        },
    }  # fmt: skip


def template(name: str, annotations: Mapping[str, str] | None) -> dict[str, Any]:
    """The metadata of a pod: annotations of ours are given without their prefix."""
    own = {PREFIX + key: value for key, value in (annotations or {}).items()}
    return {"labels": {"app": name}, "annotations": own}


def service(name: str, *ports: int, kind: str = "ClusterIP") -> dict[str, Any]:
    """A Service in front of the pods called `name`."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"namespace": NAMESPACE, "name": name},
        "spec": {
            "type": kind,
            "selector": {"app": name},
            "ports": [{"name": f"p{port}", "port": port} for port in ports],
        },
    }
