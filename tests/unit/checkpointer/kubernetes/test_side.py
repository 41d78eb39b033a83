"""What the cluster comes to know, from an API server that does not always do as it is told."""

from __future__ import annotations

import asyncio
import json
import threading
import time

import pytest
from fakes.apiserver import away, busy
from fakes.clusters import described, quiet, until

from checkpointer import cgroups
from checkpointer.containers import Record
from checkpointer.kubernetes import model

LABELS = {"status_labels": True}
EVENTS = {"status_events": True}
SCALING = {"in_place_scaling": True}

RECORD = Record("id-web", "pod", "web", "default", "uid-web", "app")

CPU = "zeropod.ctrox.dev/cpu-requests"
MEMORY = "zeropod.ctrox.dev/memory-requests"


def patches(server):
    return [path for method, path in server.requests if method == "PATCH"]


# --- labels --------------------------------------------------------------------------------------------------------------


async def test_a_label_says_who_sleeps(begin, daemon, cluster):
    """And who runs; what has been so before the daemon started, too."""
    daemon.knows("web", "ASLEEP")
    begin(**LABELS)
    await until(lambda: cluster.label() == "SCALED_DOWN")

    daemon.wakes("web")
    await until(lambda: cluster.label() == "RUNNING")


async def test_a_label_goes_at_once_when_zeropod_goes(begin, daemon, cluster, monkeypatch):
    """Before an uninstallation: the daemon has not long to live then."""
    monkeypatch.setattr(model, "SETTLE", 3600.0)
    daemon.knows("web", "RUNNING")
    begin(**LABELS)
    await until(lambda: cluster.label() == "RUNNING")
    daemon.tells("web", "RUNNING", "UNMANAGED", kind="uninstalled", reason="it goes")
    await until(lambda: cluster.label() is None)


async def test_only_what_changes_is_said(begin, daemon, cluster, server):
    """A container that is being put to sleep runs; one that is being woken does not yet."""
    daemon.knows("web", "RUNNING")
    side = begin(**LABELS)
    await until(lambda: cluster.label() == "RUNNING")
    before = await quiet(side, server)
    daemon.tells("web", "RUNNING", "SLEEPING")
    daemon.tells("web", "SLEEPING", "RUNNING")

    assert await quiet(side, server) == before


async def test_a_label_that_nobody_stands_for_is_removed(begin, daemon, cluster):
    """A daemon that died has left it, or somebody wrote it; other labels stay."""
    cluster.put("web", labels={"status.zeropod.ctrox.dev/app": "SCALED_DOWN", "app": "web"})
    begin(**LABELS)
    await until(lambda: cluster.pod()["metadata"]["labels"] == {"app": "web"})


async def test_nothing_is_removed_before_it_is_known_who_there_is(begin, daemon, cluster, server):
    """The plugin may not have said yet that the container is managed."""
    daemon.swept = False
    cluster.put("web", labels={"status.zeropod.ctrox.dev/app": "SCALED_DOWN"})
    side = begin(**LABELS)
    await until(lambda: side.view().synced)
    await quiet(side, server)
    assert cluster.label() == "SCALED_DOWN"

    daemon.swept = True
    daemon.tells("other", "RUNNING", "SLEEPING")
    await until(lambda: cluster.label() is None)


async def test_a_container_that_is_started_again_keeps_its_label(begin, daemon, cluster, server):
    """Its successor is there before anybody is told of its end."""
    daemon.knows("web", "RUNNING", id_="first")
    side = begin(**LABELS)
    await until(lambda: cluster.label() == "RUNNING")
    before = await quiet(side, server)
    daemon.tells("web", "RUNNING", "GONE", id_="first")
    daemon.tells("web", "RUNNING", "RUNNING", id_="second")
    daemon.tells("web", "GONE", "GONE", id_="first")

    assert await quiet(side, server) == before


async def test_the_label_goes_with_the_management(begin, daemon, cluster, monkeypatch):
    """A container has ended and none comes after it."""
    monkeypatch.setattr("checkpointer.kubernetes.model.SETTLE", 0.2)
    daemon.knows("web", "RUNNING")
    begin(**LABELS)
    await until(lambda: cluster.label() == "RUNNING")
    daemon.tells("web", "RUNNING", "GONE")
    await until(lambda: cluster.label() is None)


async def test_labels_converge_after_the_server_was_away(begin, daemon, cluster, server):
    """What happened meanwhile is one change."""
    daemon.knows("web", "RUNNING")
    side = begin(**LABELS)
    await until(lambda: cluster.label() == "RUNNING")
    server.trouble = away
    server.cut()
    daemon.sleeps("web")
    await until(lambda: not side.view().synced)
    daemon.wakes("web")
    daemon.sleeps("web")
    await until(lambda: side.view().pending)
    server.trouble = lambda _: False

    await until(lambda: cluster.label() == "SCALED_DOWN")


@pytest.mark.parametrize("code", [409, 429, 500, 503])
async def test_a_server_in_trouble_is_asked_again(begin, daemon, cluster, server, code):
    """The change is made when it is well."""
    daemon.knows("web", "RUNNING")
    begin(**LABELS)
    await until(lambda: cluster.label() == "RUNNING")

    def trouble(handler):
        return handler.command == "PATCH" and busy(code, "1")(handler)

    server.trouble = trouble
    daemon.sleeps("web")
    await until(lambda: len(patches(server)) >= 2)
    server.trouble = lambda _: False

    await until(lambda: cluster.label() == "SCALED_DOWN")


async def test_a_server_that_does_not_answer_is_given_up(
    begin, daemon, cluster, server, monkeypatch
):
    """After a while; the change is made when it does again."""
    monkeypatch.setattr("checkpointer.kubernetes.client.ANSWER", 0.2)
    daemon.knows("web", "RUNNING")
    side = begin(**LABELS)
    await until(lambda: cluster.label() == "RUNNING")
    over = threading.Event()

    def trouble(handler):
        if handler.command != "PATCH":
            return False
        over.wait(30)
        return away(handler)

    server.trouble = trouble
    daemon.sleeps("web")
    await until(lambda: side.view().requests.get(("patch", "pods", "error")))
    server.trouble = lambda _: False
    over.set()

    await until(lambda: cluster.label() == "SCALED_DOWN")


async def test_a_server_that_asks_for_patience_is_left_alone(begin, daemon, cluster, server):
    """By all pods, for as long as it says."""
    for name in ("a", "b", "c"):
        cluster.put(name)
        daemon.knows(name, "RUNNING")
    side = begin(**LABELS)
    await until(
        lambda: cluster.label("c") == "RUNNING" == cluster.label("b") == cluster.label("a")
    )
    await quiet(side, server)
    before = len(server.requests)
    server.trouble = busy(429, "300")
    daemon.sleeps("a")
    await until(lambda: len(server.requests) > before)
    await until(lambda: side._work._held_until > time.monotonic() + 100)
    during = len(server.requests)
    daemon.sleeps("b")
    daemon.sleeps("c")
    await asyncio.sleep(0.5)

    assert len(server.requests) == during


async def test_a_watch_that_breaks_off_goes_on_where_it_was(begin, daemon, cluster, server):
    """Without another list."""
    side = begin(**LABELS)
    await until(lambda: server.asked("watch=true"))
    server.cut()
    await until(lambda: server.asked("watch=true") == 2)
    await until(lambda: side.view().synced)
    cluster.put("late")
    daemon.tells("late", "RUNNING", "RUNNING")
    await until(lambda: cluster.label("late") == "RUNNING")

    assert server.asked("limit=") == 1


async def test_a_watch_that_is_too_far_behind_begins_anew(begin, daemon, cluster, server):
    """What happened meanwhile is found in the list: one pod has gone, one has come."""
    daemon.knows("web", "RUNNING")
    begin(**LABELS)
    await until(lambda: cluster.label() == "RUNNING")
    with server.outage():
        server.drop("pods", "default", "web")
        cluster.put("late")
    daemon.tells("late", "RUNNING", "RUNNING")
    await until(lambda: cluster.label("late") == "RUNNING")

    assert server.asked("limit=") >= 2
    # What its cache has is not enough a second time.
    assert server.asked("limit=500&resourceVersion=0") == 1


async def test_a_server_that_calls_everything_too_old_is_not_stormed(begin, cluster, server):
    """What it has listed a moment ago, too, as a server does whose own cache is behind."""
    server.oldest = 1 << 60
    begin(**LABELS)
    await until(lambda: server.asked("limit=") >= 2)
    before = server.asked("limit=")
    await asyncio.sleep(1.0)
    assert server.asked("limit=") - before <= 3


async def test_another_pod_of_the_same_name_is_not_touched(begin, daemon, cluster, server):
    """A StatefulSet's pod comes back with its name; what is known is about the old one."""
    daemon.knows("web", "RUNNING")
    side = begin(**LABELS)
    await until(lambda: cluster.label() == "RUNNING")
    with server.outage():  # nobody hears of the change
        server.drop("pods", "default", "web")
        cluster.put("web")
        other = cluster.pod()
        other["metadata"]["uid"] = "uid-other"
        server.put("pods", other)
        daemon.sleeps("web")
        await until(lambda: len(patches(server)) >= 2)
        await quiet(side, server)
    assert cluster.label() is None


async def test_a_missing_right_turns_off_what_needs_it(begin, daemon, cluster, server, caplog):
    """And nothing else; what is missing, and where to grant it, is said once."""
    server.deny("patch", "pods")
    daemon.knows("web", "RUNNING")
    side = begin(**LABELS, **EVENTS)
    await until(lambda: side.features()["status-labels"])
    cluster.put("late")
    daemon.tells("late", "RUNNING", "RUNNING")
    daemon.sleeps("web")
    await until(lambda: "ScaledDown" in cluster.events())
    await quiet(side, server)

    reason = side.features()["status-labels"]
    for word in ("patch", "pods", "ClusterRole zeropod-status-labels"):
        assert word in reason
    assert side.features()["status-events"] == ""
    assert side.view().features == {"status-labels": False, "status-events": True}
    assert len(patches(server)) == 1
    assert [r.getMessage() for r in caplog.records].count("feature.off") == 1


async def test_a_list_that_is_denied_is_told(begin, daemon, cluster, server):
    """Nothing works without it, and it is clear why."""
    server.deny("list", "pods")
    side = begin(**LABELS, **EVENTS)
    await until(lambda: "list pods" in side.features()["status-labels"])
    assert not side.view().synced
    daemon.sleeps("web")
    await until(lambda: "ScaledDown" in cluster.events())


async def test_a_hundred_sleeping_pods_cost_no_request(begin, daemon, cluster, server):
    """As long as nothing changes."""
    names = [f"pod-{number}" for number in range(100)]
    for name in names:
        cluster.put(name)
        daemon.knows(name, "ASLEEP")
    side = begin()
    await until(lambda: all(cluster.label(name) == "SCALED_DOWN" for name in names))
    await until(lambda: all(cluster.requests(name)["cpu"] == "1m" for name in names))
    before = await quiet(side, server)
    await asyncio.sleep(1.0)

    assert len(server.requests) == before


async def test_pods_of_other_nodes_are_not_looked_at(begin, daemon, cluster, server):
    """The server is asked for this node's."""
    side = begin(**LABELS)
    await until(lambda: side.view().synced)

    assert all("spec.nodeName%3Dnode-1" in p for m, p in server.requests if "/pods?" in p)


# --- events --------------------------------------------------------------------------------------------------------------


async def test_sleeps_and_wakes_are_events_of_their_pod(begin, daemon, cluster):
    """As `kubectl describe pod` shows them."""
    begin(**EVENTS)
    daemon.sleeps("web")
    daemon.wakes("web")
    await until(lambda: {"ScaledDown", "Running"} <= set(cluster.events()))

    event = cluster.events()["Running"]
    assert event["message"] == "Restored container app in 9.0 ms (tcp-connect)"
    assert (event["type"], event["count"]) == ("Normal", 1)
    assert event["involvedObject"]["uid"] == "uid-web"
    assert event["involvedObject"]["fieldPath"] == "spec.containers{app}"


async def test_a_sidecar_is_named_where_it_stands(begin, daemon, cluster, server):
    """Among the init containers, as kubectl has it."""
    thing = described("web")
    thing["spec"]["initContainers"] = [{"name": "proxy", "restartPolicy": "Always"}]
    server.put("pods", thing)
    side = begin(**EVENTS, **LABELS)
    await until(lambda: side.view().synced)
    daemon.sleeps("web", container="proxy")
    await until(lambda: "ScaledDown" in cluster.events())

    where = cluster.events()["ScaledDown"]["involvedObject"]["fieldPath"]
    assert where == "spec.initContainers{proxy}"


async def test_a_pod_that_flaps_is_no_flood(begin, daemon, cluster, server):
    """Two objects, whatever happens; what is not told at once is told later."""
    side = begin(**EVENTS)
    daemon.sleeps("web")
    daemon.wakes("web")
    await until(lambda: {"ScaledDown", "Running"} <= set(cluster.events()))
    for _ in range(50):
        daemon.sleeps("web")
        daemon.wakes("web")
    await quiet(side, server)

    assert sum(method == "POST" for method, _ in server.requests) == 2


async def test_events_that_are_denied_are_off(begin, daemon, cluster, server):
    """Labels are not."""
    server.deny("create", "events")
    daemon.knows("web", "RUNNING")
    side = begin(**LABELS, **EVENTS)
    daemon.sleeps("web")
    await until(lambda: "create events" in side.features()["status-events"])
    await until(lambda: cluster.label() == "SCALED_DOWN")


# --- requests ------------------------------------------------------------------------------------------------------------


async def test_a_sleeping_pod_asks_for_next_to_nothing(begin, daemon, cluster):
    """And has back what it asked for when it is awake."""
    daemon.knows("web", "ASLEEP")
    begin(**SCALING)
    await until(lambda: cluster.requests() == {"cpu": "1m", "memory": "1Ki"})
    assert json.loads(cluster.annotations()[CPU]) == {"app": "100m"}
    assert json.loads(cluster.annotations()[MEMORY]) == {"app": "64Mi"}

    daemon.wakes("web")
    await until(lambda: cluster.requests() == {"cpu": "100m", "memory": "64Mi"})
    await until(lambda: not {CPU, MEMORY} & set(cluster.annotations()))


async def test_two_requests_a_move(begin, daemon, cluster, server):
    """Label and note are one."""
    daemon.knows("web", "RUNNING")
    side = begin(**LABELS, **SCALING)
    await until(lambda: cluster.label() == "RUNNING")
    await quiet(side, server)
    before = len(patches(server))
    daemon.sleeps("web")
    await until(lambda: cluster.requests()["cpu"] == "1m" and cluster.label() == "SCALED_DOWN")
    await quiet(side, server)
    assert len(patches(server)) == before + 2
    daemon.wakes("web")
    await until(lambda: CPU not in cluster.annotations() and cluster.label() == "RUNNING")
    await quiet(side, server)

    assert len(patches(server)) == before + 4


async def test_requests_are_given_back_after_a_crash(begin, daemon, cluster):
    """Of a daemon that had scaled it down; it woke while none was there."""
    notes = {CPU: '{"app":"100m"}', MEMORY: '{"app":"64Mi"}'}
    cluster.put("web", requests={"cpu": "1m", "memory": "1Ki"}, annotations=notes)
    daemon.knows("web", "RUNNING")
    begin(**SCALING)
    await until(lambda: cluster.requests() == {"cpu": "100m", "memory": "64Mi"})
    await until(lambda: cluster.annotations() == {})


async def test_requests_are_given_back_to_who_is_not_managed_any_more(begin, daemon, cluster):
    """After a reboot, say; and where scaling is switched off by now."""
    notes = {CPU: '{"app":"100m"}'}
    cluster.put("web", requests={"cpu": "1m"}, annotations=notes)
    begin(**LABELS)
    await until(lambda: cluster.requests() == {"cpu": "100m"})


async def test_what_somebody_asks_for_meanwhile_counts(
    begin, daemon, cluster, server, monkeypatch
):
    """A person or an autoscaler has set other requests while it slept."""
    monkeypatch.setattr("checkpointer.kubernetes.reconciler.LULL", 0.2)
    daemon.knows("web", "ASLEEP")
    begin(**SCALING)
    await until(lambda: cluster.requests()["cpu"] == "1m")
    changed = cluster.pod()
    changed["spec"]["containers"][0]["resources"]["requests"]["cpu"] = "300m"
    server.put("pods", changed)
    await until(lambda: json.loads(cluster.annotations()[CPU]) == {"app": "300m"})
    await until(lambda: cluster.requests()["cpu"] == "1m")

    daemon.wakes("web")
    await until(lambda: cluster.requests() == {"cpu": "300m", "memory": "64Mi"})


async def test_nobody_is_fought_with(begin, daemon, cluster, server):
    """Somebody who sets other requests whenever we have is let have them for a while."""
    daemon.knows("web", "ASLEEP")
    side = begin(**SCALING)
    await until(lambda: cluster.requests()["cpu"] == "1m")
    changed = cluster.pod()
    changed["spec"]["containers"][0]["resources"]["requests"]["cpu"] = "300m"
    server.put("pods", changed)
    await quiet(side, server)
    assert cluster.requests()["cpu"] == "300m"
    assert side.view().resizes["down"] == 1

    daemon.wakes("web")
    await until(lambda: cluster.requests() == {"cpu": "300m", "memory": "64Mi"})


async def test_a_guaranteed_pod_keeps_its_requests(begin, daemon, cluster, server):
    """Kubernetes would refuse; `why` and an event say so."""
    cluster.put("web", qos="Guaranteed")
    daemon.knows("web", "ASLEEP")
    side = begin(**SCALING, **EVENTS)
    await until(lambda: "RequestsKept" in cluster.events())

    assert "Guaranteed" in side.remark(RECORD)
    assert cluster.requests() == {"cpu": "100m", "memory": "64Mi"}
    assert not patches(server)


@pytest.mark.parametrize(
    ("resource", "spec"),
    [
        ("horizontalpodautoscalers", {"scaleTargetRef": {"kind": "Deployment", "name": "shop"}}),
        ("verticalpodautoscalers", {"targetRef": {"kind": "Deployment", "name": "shop"}}),
    ],
)
async def test_pods_of_an_autoscaler_keep_their_requests(
    begin, daemon, cluster, server, resource, spec
):
    """It measures by them, or sets them."""
    server.put(resource, {"metadata": {"name": "mine", "namespace": "default"}, "spec": spec})
    thing = cluster.pod()
    thing["metadata"]["labels"] = {"pod-template-hash": "abc"}
    thing["metadata"]["ownerReferences"] = [
        {"controller": True, "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "shop-abc"}
    ]
    server.put("pods", thing)
    daemon.knows("web", "ASLEEP")
    begin(**SCALING, **EVENTS)
    await until(lambda: "RequestsKept" in cluster.events())

    assert "mine" in cluster.events()["RequestsKept"]["message"]
    assert cluster.requests()["cpu"] == "100m"


async def test_autoscalers_that_must_not_be_looked_at_keep_all_requests(
    begin, daemon, cluster, server
):
    """But what was scaled down before is given back."""
    server.deny("list", "horizontalpodautoscalers")
    notes = {CPU: '{"app":"100m"}'}
    cluster.put("early", requests={"cpu": "1m"}, annotations=notes)
    daemon.knows("early", "ASLEEP")
    daemon.knows("web", "ASLEEP")
    thing = cluster.pod()
    thing["metadata"]["ownerReferences"] = [
        {"controller": True, "apiVersion": "apps/v1", "kind": "StatefulSet", "name": "web"}
    ]
    server.put("pods", thing)
    side = begin(**SCALING)
    await until(lambda: "list horizontalpodautoscalers" in side.features()["in-place-scaling"])
    daemon.wakes("early")
    await until(lambda: cluster.requests("early") == {"cpu": "100m"})

    assert cluster.requests()["cpu"] == "100m"


async def test_a_server_without_resizes_is_told(begin, daemon, cluster, server):
    """Its version is the reason; nobody asks again for the next pod."""

    def trouble(handler):
        return handler.path.endswith("/resize") and busy(404)(handler)

    server.trouble = trouble
    daemon.knows("web", "ASLEEP")
    side = begin(**SCALING)
    await until(lambda: "1.33" in side.features()["in-place-scaling"])
    await quiet(side, server)
    cluster.put("late")
    daemon.sleeps("late")
    await quiet(side, server)

    assert server.asked("/resize") == 1


async def test_a_quota_against_giving_back_is_told_and_tried_again(
    begin, daemon, cluster, server, monkeypatch
):
    """It is no missing right, and turns nothing off."""
    monkeypatch.setattr("checkpointer.kubernetes.reconciler.REJECTED", (0.2, 0.2))
    daemon.knows("web", "ASLEEP")
    side = begin(**SCALING, **EVENTS)
    await until(lambda: cluster.requests()["cpu"] == "1m")

    def trouble(handler):
        return handler.path.endswith("/resize") and busy(403)(handler)

    server.trouble = trouble
    daemon.wakes("web")
    await until(lambda: "ResizeRejected" in cluster.events())
    assert side.features()["in-place-scaling"] == ""
    assert side.view().resizes["rejected"] == 1
    server.trouble = lambda _: False

    await until(lambda: cluster.requests()["cpu"] == "100m")


def refuse(cluster, server, word):
    """Have the kubelet say what it makes of the pod's requests."""
    thing = cluster.pod()
    thing["status"]["conditions"] = [
        {
            "type": "PodResizePending",
            "status": "True",
            "reason": word,
            "message": "the node is full",
        }
    ]
    server.put("pods", thing)


async def test_a_node_that_is_full_is_told(begin, daemon, cluster, server):
    """The pod runs; that the kubelet gives its requests back later is visible until it has."""
    daemon.knows("web", "RUNNING")
    side = begin(**SCALING, **EVENTS)
    await until(lambda: side.view().synced)
    refuse(cluster, server, "Deferred")
    await until(lambda: "ResizeDeferred" in cluster.events())
    assert "the node is full" in cluster.events()["ResizeDeferred"]["message"]
    assert "fieldPath" not in cluster.events()["ResizeDeferred"]["involvedObject"]
    assert "the node is full" in side.remark(RECORD)
    assert side.view().unresized == {("default", "web", "Deferred"): 1}
    well = cluster.pod()
    well["status"]["conditions"] = []
    server.put("pods", well)

    await until(lambda: side.view().unresized == {})


async def test_what_is_infeasible_is_asked_for_again(begin, daemon, cluster, server, monkeypatch):
    """The kubelet would not look again: it is given the least once more, and asked anew."""
    when = "checkpointer.kubernetes.reconciler.INFEASIBLE"
    monkeypatch.setattr(when, 0.2)

    def not_again(handler):
        if handler.path.endswith("/resize"):
            monkeypatch.setattr(when, 1000.0)
        return False

    server.trouble = not_again
    daemon.knows("web", "RUNNING")
    side = begin(**SCALING)
    await until(lambda: side.view().synced)
    refuse(cluster, server, "Infeasible")
    await until(lambda: server.asked("/resize") == 2)
    # The kubelet has not said anything new yet: that is no reason to ask at once.
    await quiet(side, server)
    assert server.asked("/resize") == 2
    well = cluster.pod()
    well["status"]["conditions"] = []
    server.put("pods", well)
    await quiet(side, server)

    await until(lambda: cluster.requests() == {"cpu": "100m", "memory": "64Mi"})
    await until(lambda: cluster.annotations() == {})


# --- the end -------------------------------------------------------------------------------------------------------------


async def test_an_uninstallation_leaves_nothing_in_the_api(begin, daemon, cluster, server):
    """No label, and the requests that the pod came with."""
    daemon.knows("web", "ASLEEP")
    side = begin(**LABELS, **SCALING)
    await until(lambda: cluster.requests()["cpu"] == "1m" and cluster.label() == "SCALED_DOWN")
    daemon.knows("web", "UNMANAGED", reason="it is being uninstalled")

    assert await side.caught_up(daemon, 20.0)
    assert cluster.requests() == {"cpu": "100m", "memory": "64Mi"}
    assert cluster.label() is None
    assert cluster.annotations() == {}


async def test_an_uninstallation_does_not_wait_for_ever(begin, daemon, cluster, server):
    """The API server may be away."""
    daemon.knows("web", "RUNNING")
    side = begin(**LABELS)
    await until(lambda: cluster.label() == "RUNNING")
    server.trouble = away
    daemon.knows("web", "UNMANAGED", reason="it is being uninstalled")

    assert not await side.caught_up(daemon, 0.5)


async def test_the_share_of_a_wake_is_what_was_lowered_here(
    begin, daemon, cluster, monkeypatch, tmp_path
):
    """Not what its owner has written into the note meanwhile, which no quota has seen."""
    container = tmp_path / "pod" / "container"
    container.mkdir(parents=True)
    files = [directory / "cpu.shares" for directory in (container, container.parent)]
    for path in files:
        path.write_text("2")
    monkeypatch.setattr(cgroups, "of", lambda _pid: cgroups.Cgroups({}, container))
    daemon.knows("web", "RUNNING")
    side = begin(**SCALING)
    daemon.sleeps("web")
    await until(lambda: cluster.requests()["cpu"] == "1m")
    cluster.put("web", requests=cluster.requests(), annotations={CPU: '{"app":"64"}'})
    await until(lambda: side.view().pending == 0)
    daemon.tells("web", "ASLEEP", "WAKING")
    await until(lambda: all(path.read_text() == "102" for path in files))


async def test_a_right_that_was_granted_meanwhile_is_used(
    begin, daemon, cluster, server, monkeypatch
):
    """After a while, although nothing else happens."""
    monkeypatch.setattr("checkpointer.kubernetes.rights.AGAIN", 0.1)
    server.deny("patch", "pods")
    daemon.knows("web", "RUNNING")
    side = begin(**LABELS)
    await until(lambda: side.features()["status-labels"])
    server.denied.clear()

    await until(lambda: cluster.label() == "RUNNING")
