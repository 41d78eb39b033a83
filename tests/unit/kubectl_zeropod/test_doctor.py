"""What doctor finds."""

from __future__ import annotations

import json

import pytest
from fakes.pods import pod, sleeper

STATUS = {
    "version": "0.1.0",
    "criu": "4.2.1",
    "plugin": True,
    "since": 0.0,
    "counts": {"ASLEEP": 2},
    "image_bytes": 0,
    "helpers": {},
}


def info(**more):
    return {
        "namespace": "default",
        "pod": "web",
        "container": "app",
        "state": "RUNNING",
        "reason": "",
        "failed_wakes": 0,
        "failed_sleeps": 0,
        **more,
    }


@pytest.fixture
def daemons(api):
    """What `zeropod status` and `list` answer on each node; change it."""
    answers = {f"zeropod-node-{n}": {"status": dict(STATUS), "list": []} for n in (1, 2)}
    api.answer_exec = lambda _, pod, __, command: (0, json.dumps(answers[pod][command[1]]), "")
    return answers


def findings(run, *, code):
    got, out, _ = run("doctor", "-o", "json")
    assert got == code
    return [(one["check"], one["on"], one["result"], one["text"]) for one in json.loads(out)]


def test_a_right_that_a_daemon_lacks_is_told(run, daemons):
    """What it turns off is no failure of the daemon."""
    why = "off, it may not patch pods: grant that in ClusterRole zeropod-status-labels"
    daemons["zeropod-node-2"]["status"]["api"] = {"status-labels": why, "status-events": ""}
    found = [one for one in findings(run, code=0) if one[0] == "api"]

    assert found == [("api", "node-2", "warning", f"status-labels: {why}")]


def test_a_healthy_cluster(run, daemons):
    """A line a node and a line a daemon, all ok."""
    found = findings(run, code=0)

    assert [one[:3] for one in found] == [
        ("node", "node-1", "ok"),
        ("node", "node-2", "ok"),
        ("daemon", "node-1", "ok"),
        ("daemon", "node-2", "ok"),
    ]
    assert "2 ASLEEP" in found[2][3]
    assert run("doctor")[1].startswith("CHECK")


def test_a_labelled_node_without_a_pod(api, run, daemons):
    """Somebody has to look at the DaemonSet."""
    labels = {"zeropod.ctrox.dev/node": "true"}
    api.put("nodes", {"metadata": {"name": "node-3", "labels": labels}})

    assert ("node", "node-3", "failed") in [one[:3] for one in findings(run, code=1)]


def test_no_node_is_labelled(api, run, daemons):
    """The commonest thing to forget."""
    for number in (1, 2):
        api.put("nodes", {"metadata": {"name": f"node-{number}", "labels": {}}})
        api.drop("pods", "zeropod-system", f"zeropod-node-{number}")

    [one] = findings(run, code=1)
    assert "kubectl label node" in one[3]


def test_what_the_node_says_of_itself(api, run, daemons):
    """Its condition, and a taint that stays."""
    labels = {"zeropod.ctrox.dev/node": "true"}
    condition = {"type": "ZeropodReady", "status": "False", "message": "kernel: 4.4 is too old"}
    bad = {"metadata": {"name": "node-1", "labels": labels}, "status": {"conditions": [condition]}}
    taint = {"key": "zeropod.ctrox.dev/not-ready", "effect": "NoSchedule"}
    slow = {"metadata": {"name": "node-2", "labels": labels}, "spec": {"taints": [taint]}}
    api.put("nodes", bad)
    api.put("nodes", slow)

    found = findings(run, code=1)

    assert ("node", "node-1", "failed", "kernel: 4.4 is too old") in found
    assert ("node", "node-2", "warning") in [one[:3] for one in found]


@pytest.mark.parametrize("may_see_nodes", [True, False])
def test_a_pod_of_zeropod_that_does_not_start(api, run, daemons, may_see_nodes):
    """Which container, and why."""
    waiting = {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 10s"}}
    broken = api.read("pods", "zeropod-system", "zeropod-node-1")
    broken["status"] = {"containerStatuses": [{"name": "checkpointer", "state": waiting}]}
    api.put("pods", broken)
    if not may_see_nodes:
        api.deny("list", "nodes")

    found = findings(run, code=1)

    text = "container checkpointer: CrashLoopBackOff: back-off 10s"
    assert ("node", "node-1", "failed", text) in found
    assert ("daemon", "node-1") not in [one[:2] for one in found]


def test_a_plugin_that_is_away(run, daemons):
    """New pods run unmanaged."""
    daemons["zeropod-node-2"]["status"]["plugin"] = False

    [one] = [one for one in findings(run, code=1) if one[2] == "failed"]
    assert one[:2] == ("daemon", "node-2")
    assert "nri-plugin" in one[3]


def test_versions_that_differ(run, daemons):
    """An upgrade that is under way, or got stuck."""
    daemons["zeropod-node-2"]["status"]["version"] = "0.2.0"

    assert findings(run, code=0)[-1][:3] == ("versions", "", "warning")


@pytest.mark.parametrize(
    ("what", "result", "text", "code"),
    [
        (
            {"state": "UNMANAGED", "reason": "hostNetwork"},
            "warning",
            "not managed: hostNetwork",
            0,
        ),
        ({"failed_sleeps": 2, "reason": "io_uring"}, "warning", "does not sleep: io_uring", 0),
        ({"failed_wakes": 1, "reason": "no room"}, "failed", "does not wake: no room", 1),
    ],
)
def test_containers_that_do_not_do_as_they_should(run, daemons, what, result, text, code):
    """With the daemon's reason."""
    daemons["zeropod-node-1"]["list"] = [info(**what)]

    assert ("container", "default/web/app", result, text) in findings(run, code=code)


def test_pods_that_ask_where_nobody_hears(api, run, daemons):
    """On nodes without zeropod."""
    api.put("pods", sleeper("web", "", node="node-9"))
    api.put("pods", pod("plain", node="node-9"))

    [one] = [one for one in findings(run, code=0) if one[0] == "placement"]
    assert one[1:3] == ("default/web", "warning")
    assert "kubectl label node node-9" in one[3]


def test_what_may_not_be_looked_at_is_skipped(api, run, daemons):
    """With the right that is missing; the rest is looked at."""
    api.deny("list", "nodes")

    found = findings(run, code=0)

    assert found[0][:3] == ("nodes", "", "skipped")
    assert 'cannot list resource "nodes"' in found[0][3]
    assert found[1][:3] == ("daemon", "node-1", "ok")


def test_a_user_who_may_not_ask_daemons(api, run, daemons):
    """Each is skipped."""
    api.deny("create", "pods/exec")

    assert [one[2] for one in findings(run, code=0)] == ["ok", "ok", "skipped", "skipped"]


def test_a_user_who_may_look_at_nothing(api, run):
    """Is told so by the exit code, too."""
    api.deny("list", "pods")

    [one] = findings(run, code=5)
    assert "`zeropod-operator`" in one[3]
