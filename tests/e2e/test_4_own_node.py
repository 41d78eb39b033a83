"""What somebody with a node's token of ours can change: what is of that node, as far as it is our business."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from e2e import kubectl, nodes, product, workloads
from e2e.apps import App

ELSEWHERE = "elsewhere"

MERGE, STRATEGIC = "application/merge-patch+json", "application/strategic-merge-patch+json"

CONDITION = {"type": "ZeropodReady", "status": "False", "reason": "Tested", "message": "by a test"}

#: As a thief would do who has a pod's token: a request of his own.
REQUEST = """
import json, os, ssl, sys, urllib.error, urllib.request
host, port = os.environ["KUBERNETES_SERVICE_HOST"], os.environ["KUBERNETES_SERVICE_PORT"]
server = f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}"
account = "/var/run/secrets/kubernetes.io/serviceaccount"
verb, path, kind, body, token = json.load(sys.stdin)
headers = {"Authorization": "Bearer " + (token or open(account + "/token").read()), "Content-Type": kind}
asked = urllib.request.Request(server + path, json.dumps(body).encode(), headers, method=verb)
try:
    urllib.request.urlopen(asked, context=ssl.create_default_context(cafile=account + "/ca.crt"), timeout=30)
    print("done")
except urllib.error.HTTPError as error:
    print(error.code, json.load(error)["message"])
"""


def asked(path: str, body: Any, kind: str = MERGE, verb: str = "PATCH", token: str = "") -> str:
    """What the API server answers to the daemon's pod on the first node, or to another token."""
    agent = product.pod_on(node())["metadata"]["name"]
    words = ["-i", "-n", product.NAMESPACE, agent, "-c", product.DAEMON]
    question = json.dumps([verb, path, kind, body, token])
    return kubectl.run("exec", *words, "--", "python3", "-Ic", REQUEST, stdin=question).strip()


def node() -> str:
    """The one whose token is used."""
    return nodes.names()[0]


def pod_path(name: str) -> str:
    return f"/api/v1/namespaces/{workloads.NAMESPACE}/pods/{name}"


@pytest.fixture(scope="module")
def target(zeropod: None) -> Iterator[App]:
    """A pod of the token's node that is none of zeropod's."""
    resources = {"requests": {"cpu": "20m"}, "limits": {"memory": "80Mi"}}
    app = App("own-node")
    container = workloads.nginx(resources=resources)
    kubectl.apply(workloads.pod(app.name, [container], nodeName=node()))
    app.ready()
    yield app
    kubectl.run("delete", "pod", "-n", workloads.NAMESPACE, app.name, "--wait=false")


@pytest.fixture
def elsewhere(zeropod: None) -> Iterator[str]:
    """The token of a pod of ours on a node that is not there."""
    spec = {"serviceAccountName": product.DAEMON_SET, "nodeName": ELSEWHERE}
    kubectl.apply(
        workloads.pod(ELSEWHERE, [workloads.nginx()], namespace=product.NAMESPACE, **spec)
    )
    try:
        words = ["--bound-object-kind=Pod", f"--bound-object-name={ELSEWHERE}"]
        words = ["-n", product.NAMESPACE, product.DAEMON_SET, *words]
        yield kubectl.run("create", "token", *words).strip()
    finally:
        words = ["--ignore-not-found", "--force", "--grace-period=0"]
        kubectl.run("delete", "pod", "-n", product.NAMESPACE, ELSEWHERE, *words)


@pytest.fixture
def startup_taint(zeropod: None) -> Iterator[None]:
    """The rights of a component that production has not: to change nodes."""
    role = "manifests/components/startup-taint/rbac.yaml"
    kubectl.run("apply", "-f", role)
    try:
        yield
    finally:
        kubectl.run("delete", "-f", role, "--ignore-not-found")


def refused(answer: str, reason: str) -> bool:
    """By us, and with that reason. Rights that have just been granted are not known at once."""
    return answer.startswith("403 ") and "zeropod-own-" in answer and reason in answer


def test_policies_are_what_the_server_understands(zeropod: None) -> None:
    """It finds no fault in our expressions for any kind that they are about."""
    for what in ("nodes", "pods", "events"):
        name = f"zeropod-own-{what}"

        def looked_at(name: str = name) -> Any:
            found = kubectl.get("validatingadmissionpolicy", name)
            status = found.get("status", {})
            return status if status.get("observedGeneration") else None

        status = kubectl.until(looked_at, "nobody has looked at it")
        assert status.get("typeChecking", {}).get("expressionWarnings", []) == []


def test_nobody_else_is_concerned(target: App) -> None:
    """An administrator changes what he likes, such as a label of a pod."""
    kubectl.run("label", "pod", "-n", workloads.NAMESPACE, target.pod, "foreign=label")


def test_pods_of_other_nodes_are_not_ours(target: App, elsewhere: str) -> None:
    """Not even by a label that we write ourselves, or by requests."""
    label = {"metadata": {"labels": {"status.zeropod.ctrox.dev/nginx": "RUNNING"}}}
    path, other = (
        f"/api/v1/namespaces/{ns}/pods/{name}"
        for ns, name in ((workloads.NAMESPACE, target.pod), (product.NAMESPACE, ELSEWHERE))
    )
    assert refused(asked(other, label), f"no pod of another node: {ELSEWHERE}")
    assert refused(asked(path, label, token=elsewhere), f"no pod of another node: {node()}")
    lowered = {"spec": {"containers": [{"name": "nginx", "resources": {"requests": {"cpu": "1m"}}}]}}  # fmt: skip
    answer = asked(path + "/resize", lowered, STRATEGIC, token=elsewhere)
    assert refused(answer, f"no pod of another node: {node()}")


def test_a_token_without_a_node_is_good_for_nothing(target: App) -> None:
    """As of an account whose token somebody has made, or of before Kubernetes 1.30."""
    words = ["create", "token", "-n", product.NAMESPACE, product.DAEMON_SET]
    token = kubectl.run(*words).strip()
    label = {"metadata": {"labels": {"status.zeropod.ctrox.dev/nginx": "RUNNING"}}}
    answer = asked(pod_path(target.pod), label, token=token)
    assert refused(answer, "does not say for which node")


def test_what_is_not_ours_of_a_pod_is_refused(target: App) -> None:
    """An image, a deadline, somebody's label: each with a sentence that says what is ours."""
    for body, reason in (
        ({"metadata": {"labels": {"app": "other"}}}, "of a pod's labels"),
        ({"metadata": {"labels": {"app": None}}}, "of a pod's labels"),
        ({"metadata": {"annotations": {"other": "x"}}}, "of a pod's metadata"),
        ({"metadata": {"finalizers": ["a.example/x"]}}, "of a pod's metadata"),
        ({"spec": {"containers": [{"name": "nginx", "image": "other"}]}}, "of a pod's spec"),
        ({"spec": {"activeDeadlineSeconds": 1000}}, "of a pod's spec"),
    ):
        answer = asked(pod_path(target.pod), body, STRATEGIC)
        assert refused(answer, reason), (body, answer)


def test_our_marks_and_requests_of_a_pod_are_ours(target: App) -> None:
    """Labels, both annotations, and requests where the node is our own; limits are not."""
    path = pod_path(target.pod)
    key = "status.zeropod.ctrox.dev/nginx"
    notes = {f"zeropod.ctrox.dev/{name}-requests": "{}" for name in ("cpu", "memory")}
    for value in ("RUNNING", "SCALED_DOWN", None):
        assert asked(path, {"metadata": {"labels": {key: value}}}) == "done"
    for these in (notes, dict.fromkeys(notes)):
        assert asked(path, {"metadata": {"annotations": these}}) == "done"

    def resized(resources: dict[str, Any]) -> str:
        body = {"spec": {"containers": [{"name": "nginx", "resources": resources}]}}
        return asked(path + "/resize", body, STRATEGIC)

    assert resized({"requests": {"cpu": "1m"}}) == "done"
    assert resized({"requests": {"cpu": "20m"}}) == "done"
    assert refused(resized({"limits": {"memory": "90Mi"}}), "of a pod's resources")


def test_what_is_not_ours_of_our_node_is_refused(zeropod: None) -> None:
    """Its status has conditions of the kubelet's, and takes labels, too."""
    for body, reason in (
        ({"metadata": {"labels": {"other": "x"}}}, "of a node's metadata"),
        ({"metadata": {"annotations": {"other": "x"}}}, "of a node's metadata"),
        ({"status": {"conditions": [{**CONDITION, "type": "Ready"}]}}, "of a node's status"),
        ({"status": {"capacity": {"example.com/fake": "9"}}}, "of a node's status"),
    ):
        answer = asked(f"/api/v1/nodes/{node()}/status", body, STRATEGIC)
        assert refused(answer, reason), (body, answer)


def test_other_nodes_are_not_ours(elsewhere: str) -> None:
    """Our condition of our node is, and no other node's."""
    body = {"status": {"conditions": [CONDITION]}}
    path = f"/api/v1/nodes/{node()}/status"
    conditions = kubectl.get("node", node())["status"]["conditions"]
    said = next(one for one in conditions if one["type"] == CONDITION["type"])
    try:
        assert asked(path, body, STRATEGIC) == "done"
    finally:
        assert asked(path, {"status": {"conditions": [said]}}, STRATEGIC) == "done"
    answer = asked(path, body, STRATEGIC, token=elsewhere)
    assert refused(answer, f"no other node: {node()}")


def test_our_taint_is_ours(startup_taint: None, elsewhere: str) -> None:
    """Our taint is taken off, nobody else's, and none is put on; a node is not closed to pods."""
    mine, path = node(), f"/api/v1/nodes/{node()}"
    ours, foreign = "zeropod.ctrox.dev/not-ready", "example.com/tested"
    taints = [{"key": key, "effect": "PreferNoSchedule"} for key in (ours, foreign)]

    def may_not(body: Any, reason: str, token: str = "") -> bool:
        return refused(asked(path, body, token=token), reason)

    kubectl.until(
        lambda: may_not({"spec": {"unschedulable": True}}, "of a node's spec"),
        "the right to change nodes has not come",
    )
    before = kubectl.get("node", mine)["spec"].get("taints", [])
    kubectl.run("patch", "node", mine, "-p", json.dumps({"spec": {"taints": before + taints}}))
    try:
        assert may_not({"spec": {"taints": [*before, taints[0]]}}, "of a node's spec")
        assert may_not({"spec": {"taints": [*before, taints[1]]}}, "no other node", elsewhere)
        assert asked(path, {"spec": {"taints": [*before, taints[1]]}}) == "done"
        assert may_not({"spec": {"taints": before + taints}}, "of a node's spec")
    finally:
        body = json.dumps({"spec": {"taints": before or None}})
        kubectl.run("patch", "node", mine, "--type=merge", "-p", body)


def test_events_are_written_in_the_own_name(target: App) -> None:
    """Of our node and our component, about pods."""
    path = f"/api/v1/namespaces/{workloads.NAMESPACE}/events"
    event = {
        "metadata": {"generateName": "own-node-", "namespace": workloads.NAMESPACE},
        "involvedObject": {
            "kind": "Pod",
            "namespace": workloads.NAMESPACE,
            "name": target.pod,
        },
        "reason": "Tested",
        "action": "Tested",
        "reportingComponent": "zeropod.ctrox.dev/manager",
        "reportingInstance": node(),
    }
    kind = "application/json"
    assert asked(path, event, kind, "POST") == "done"
    other = {**event, "reportingInstance": ELSEWHERE}
    assert refused(asked(path, other, kind, "POST"), "in the name of another")
    kubelet = {**event, "reportingComponent": "kubelet"}
    assert refused(asked(path, kubelet, kind, "POST"), "events of its own")
