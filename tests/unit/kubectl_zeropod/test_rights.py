"""The rights that docs/kubectl.md and manifests/kubectl/operator.yaml name are those that are used."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from fakes.pods import sleeper

OPERATOR = Path(__file__).parents[3] / "manifests/kubectl/operator.yaml"

SYSTEM = "zeropod-system"

VIEW = {("get", "pods"), ("list", "pods"), ("watch", "pods"), ("list", "events")}
"""What is needed of ClusterRole view."""

EDIT = {("get", "pods/exec"), ("create", "pods/exec")}
"""What is needed of ClusterRole edit, in the pod's own namespace."""


def granted() -> tuple[set[tuple[str, str]], set[tuple[str, str]]]:
    """Of the manifest: what holds in zeropod-system, and what everywhere."""
    role, cluster_role = (
        {
            (verb, resource)
            for rule in one["rules"]
            for verb in rule["verbs"]
            for resource in rule["resources"]
        }
        for one in yaml.safe_load_all(OPERATOR.read_text(encoding="utf-8"))
    )
    return role, cluster_role


def answer(_namespace, _pod, _container, command):
    """Of a daemon, or of the supervisor."""
    if command[0] != "zeropod":
        return 64, "", ""
    status = {"version": "1", "criu": "1", "plugin": True, "counts": {}}
    return 0, json.dumps(status if command[1] == "status" else []), ""


@pytest.fixture
def used(api, run):
    """Run a command; the rights that it used in the pod's namespace, in zeropod's, and in all."""
    api.put("pods", sleeper("web", "SCALED_DOWN"))
    api.answer_exec = answer

    def rights(*words):
        api.used.clear()
        code = run(*words)[0]
        found = {
            place: {(verb, resource) for verb, resource, where in api.used if where == place}
            for place in ("default", SYSTEM, "")
        }
        assert code in {0, 5}
        return found["default"], found[SYSTEM], found[""]

    return rights


@pytest.mark.parametrize("words", [["list"], ["list", "web"], ["status"], ["list", "-l", "a=b"]])
def test_who_may_look_may_list(used, words):
    """Nothing of zeropod's own namespace is asked for."""
    mine, system, everywhere = used(*words)
    assert mine <= VIEW
    assert not system | everywhere


def test_who_may_look_may_watch(api, used):
    """Until that right is gone, which ends this test."""
    api.deny("watch", "pods")
    mine, system, everywhere = used("watch")
    assert mine == {("list", "pods"), ("watch", "pods")}
    assert not system | everywhere


@pytest.mark.parametrize("words", [["why", "web"], ["sleep", "web"], ["wake", "web"]])
def test_who_runs_the_cluster_has_a_role_for_the_daemons(used, words):
    """Every right of the role is used, and no other."""
    role, _ = granted()
    mine, system, everywhere = used(*words)
    assert mine <= VIEW
    assert system == role
    assert not everywhere


def test_who_may_exec_into_a_pod_may_wake_it(api, used):
    """After zeropod's own namespace was closed to them."""
    api.deny("list", "pods", SYSTEM)
    mine, _, everywhere = used("wake", "web")
    assert mine == {("get", "pods")} | EDIT
    assert not everywhere


def test_doctor_looks_at_nodes_too(used):
    """And at all pods, for those where zeropod is not."""
    role, cluster_role = granted()
    mine, system, everywhere = used("doctor")
    assert not mine
    assert system <= role
    assert everywhere == {("list", "nodes"), ("list", "pods")} == cluster_role
