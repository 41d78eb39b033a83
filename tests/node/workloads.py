"""Programs that people run, and how to talk to them: what the tests of workloads share."""

from __future__ import annotations

import functools
import subprocess
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from node.clients import Sleeper, until
from node.sleepers import SCALEDOWN

from dev import cri

Pods = Callable[..., cri.Pod]

APPS = Path("/run/node/apps")


@functools.cache
def image(name: str) -> str:
    """The name of one of the larger test images (dev/lib/apps.py), which the node has from now on."""
    archive = APPS / f"{name}.tar"
    if name == "static" and not archive.exists():
        pytest.skip("the Go program is built from source and there is no Go on this machine")
    words = ["ctr", "-n", "k8s.io", "images", "import", str(archive)]
    subprocess.run(words, check=True, capture_output=True, timeout=60)
    return f"localhost/{name}:1"


def start(
    pods: Pods,
    name: str,
    command: list[str],
    ready: str,
    *,
    scaledown: str = "1h",
    annotations: dict[str, str] | None = None,
    **described: Any,
) -> Sleeper:
    """Start a program and wait until its log has a word."""
    pod = pods(annotations={SCALEDOWN: scaledown, **(annotations or {})})
    container = pod.run(image(name), command, **described)

    def is_up() -> bool:
        assert container.state == "running", container.logs()
        return ready in container.logs()

    until(is_up, 30)
    return Sleeper(container)


def get(address: str, port: int, path: str = "/", timeout: float = 15.0) -> str:
    """The body of an HTTP answer, over a connection of its own."""
    with urllib.request.urlopen(f"http://{address}:{port}{path}", timeout=timeout) as answer:
        text: str = answer.read().decode()
    return text
