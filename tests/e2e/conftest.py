"""Tests in here run against any cluster: kubectl and its kubeconfig, nothing else.

They go in the order of their files: zeropod is installed first and taken away last. On the way they make and remove a
namespace of their own, restart containerd and kubelet, and stop the API server for some seconds: not for a cluster that
somebody needs.
"""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from e2e import apps, kubectl, nodes, product, workloads
from e2e.apps import App

from dev import patience

HERE = Path(__file__).parent

LIMIT = 480.0

Deploy = Callable[..., App]


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Without a cluster there is nothing to test; with one, its programs need their time."""
    mine = [item for item in items if item.path.is_relative_to(HERE)]
    there = shutil.which("kubectl") and os.environ.get("KUBECONFIG")
    for item in mine:
        if not there:
            reason = "needs a cluster: dev/test --tier cluster, or kubectl and KUBECONFIG"
            item.add_marker(pytest.mark.skip(reason=reason))
        item.add_marker(pytest.mark.timeout(patience.seconds(LIMIT)), append=False)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A failure comes with what our pods say: they may be gone when somebody looks."""
    report = yield
    if report.failed and item.path.is_relative_to(HERE):
        try:
            report.sections.append(("zeropod", product.describe()))
        except kubectl.KubectlError as error:
            report.sections.append(("zeropod", str(error)))
    return report


@pytest.fixture(scope="session")
def cluster() -> Iterator[None]:
    """A namespace with a client to ask from and a shell on each node."""
    kubectl.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {
        "name": workloads.NAMESPACE, "labels": {"pod-security.kubernetes.io/enforce": "privileged"}}})  # fmt: skip
    account = ["serviceaccount", "-n", workloads.NAMESPACE, "default"]
    kubectl.until(lambda: kubectl.exists(*account), "the namespace has no service account")
    clients = [
        workloads.container(name, image, "sleep", "infinity")
        for name, image in apps.CLIENTS.items()
    ]
    kubectl.apply(
        nodes.daemon_set(), workloads.pod(apps.CLIENT, clients, terminationGracePeriodSeconds=0)
    )
    App(apps.CLIENT).ready()
    kubectl.run(
        "rollout",
        "status",
        "-n",
        workloads.NAMESPACE,
        "daemonset",
        nodes.NAME,
        "--timeout=120s",
        fast=130,
    )
    yield
    kubectl.run("delete", "namespace", workloads.NAMESPACE, "--ignore-not-found", fast=180)


@pytest.fixture(scope="session")
def bystander(cluster: None) -> App:
    """A pod with our annotations that was there before us."""
    annotations = {"scaledown-duration": "2s"}
    kubectl.apply(
        workloads.pod(
            "bystander",
            [workloads.web()],
            annotations=annotations,
            terminationGracePeriodSeconds=1,
        )
    )
    app = App("bystander")
    app.ready()
    return app


@pytest.fixture(scope="session")
def before(bystander: App) -> dict[str, list[str]]:
    """What each node had that looks like ours, before there was anything of ours."""
    return {node: product.traces(node) for node in nodes.names()}


@pytest.fixture(scope="session")
def zeropod(before: dict[str, list[str]]) -> None:
    """Installed as the documentation says: one overlay, and a label on each node."""
    kubectl.run("apply", "-k", product.OVERLAY)
    kubectl.run("label", "node", "--all", "--overwrite", f"{product.LABEL}=true")
    product.rolled_out()


@pytest.fixture
def deploy(zeropod: None, request: pytest.FixtureRequest) -> Iterator[Deploy]:
    """Starts pods, each with a Service on its containers' ports, and removes them afterwards."""
    base = "".join(c if c.isalnum() else "-" for c in request.node.name.lower())[5:45].strip("-")
    numbers = itertools.count()
    made: list[App] = []

    def start(
        *containers: Mapping[str, Any],
        annotations: Mapping[str, str] | None = None,
        service: str = "ClusterIP",
        as_deployment: bool = False,
        ports: Sequence[int] = (),
        **spec: Any,
    ) -> App:
        number = next(numbers)
        app = App(f"{base}-{number}" if number else base, by_label=as_deployment)
        make = workloads.deployment if as_deployment else workloads.pod
        declared = [port["containerPort"] for one in containers for port in one.get("ports", [])]
        made.append(app)
        kubectl.apply(
            make(app.name, containers, annotations=annotations, **spec),
            workloads.service(app.name, *(ports or declared), kind=service),
        )
        app.ready()
        app.routed(*(ports or declared)[:1])
        return app

    yield start
    for app in made:
        kind = "deployment" if app.by_label else "pod"
        words = ["-n", workloads.NAMESPACE, "--ignore-not-found", "--wait=false"]
        kubectl.run("delete", f"{kind}/{app.name}", f"service/{app.name}", *words)
