"""What becomes of requests; only decisions."""

from __future__ import annotations

import json

import pytest
from fakes.clusters import described

from checkpointer.kubernetes import scaling
from checkpointer.kubernetes.pods import SAVED, Pod

BOTH = {"cpu": "100m", "memory": "64Mi"}
LEAST = {"cpu": "1m", "memory": "1Ki"}


def pod(requests=None, *, saved=None, **more):
    notes = {SAVED[resource]: text for resource, text in (saved or {}).items()}
    return Pod.of(described("web", requests=requests, annotations=notes, **more))


def noted(values):
    return {
        SAVED[resource]: json.dumps({"app": v}, separators=(",", ":"))
        for resource, v in values.items()
    }


def carried_out(before, plan):
    """The pod after a plan, as JSON has it: what the next look finds."""
    thing = described(
        "web", requests={**dict(before.containers[0].requests), **plan.requests.get("app", {})}
    )
    kept = {SAVED[r]: json.dumps(dict(v)) for r, v in before.saved.items() if v is not None}
    for changes in (plan.notes, plan.done):
        kept = {k: v for k, v in {**kept, **changes}.items() if v is not None}
    thing["metadata"]["annotations"] = kept
    return Pod.of(thing)


@pytest.mark.parametrize(
    "requests",
    [
        BOTH,
        {"cpu": "100m"},
        {"memory": "64Mi"},
        {"cpu": "0.5", "memory": "1G", "nvidia.com/gpu": "1"},
    ],
)
def test_only_what_was_asked_for_is_scaled(requests):
    """CPU, memory or both; there and back again."""
    asked = {r: v for r, v in requests.items() if r in LEAST}
    down = scaling.plan(pod(requests), {"app"})
    assert down.notes == noted(asked)
    assert down.requests == {"app": {r: LEAST[r] for r in asked}}
    asleep = carried_out(pod(requests), down)
    assert not scaling.plan(asleep, {"app"})
    up = scaling.plan(asleep, set())
    assert up.requests == {"app": asked}
    assert up.done == dict.fromkeys(noted(asked))

    assert not scaling.plan(carried_out(asleep, up), set())


@pytest.mark.parametrize("requests", [{}, LEAST, {"cpu": "1m"}, {"cpu": "500u"}])
def test_who_asks_for_nothing_keeps_that(requests):
    """There is nothing to give."""
    assert not scaling.plan(pod(requests), {"app"})
    assert not scaling.plan(pod(requests), set())


def test_a_crash_between_note_and_change_loses_nothing():
    """Asleep it goes on, awake the note is taken away."""
    half = pod(BOTH, saved={"cpu": '{"app":"100m"}', "memory": '{"app":"64Mi"}'})
    on = scaling.plan(half, {"app"})
    assert (on.notes, on.requests) == ({}, {"app": LEAST})
    back = scaling.plan(half, set())

    assert (back.requests, back.done) == ({}, dict.fromkeys(SAVED.values()))


def test_a_crash_between_change_and_note_loses_nothing():
    """What was given back is not given back again."""
    half = pod(BOTH, saved={"cpu": '{"app":"100m"}'})

    assert not scaling.plan(half, set()).requests


def test_what_others_set_while_it_sleeps_is_noted():
    """And given back, not what it had before."""
    changed = pod(
        {"cpu": "300m", "memory": "1Ki"},
        saved={"cpu": '{"app":"100m"}', "memory": '{"app":"64Mi"}'},
    )
    plan = scaling.plan(changed, {"app"})
    assert plan.notes == {SAVED["cpu"]: '{"app":"300m"}'}
    assert plan.requests == {"app": {"cpu": "1m"}}

    assert scaling.plan(carried_out(changed, plan), set()).requests == {
        "app": {"cpu": "300m", "memory": "64Mi"}
    }


def test_what_others_set_before_it_is_given_back_counts():
    """Only the other resource is given back."""
    changed = pod(
        {"cpu": "300m", "memory": "1Ki"},
        saved={"cpu": '{"app":"100m"}', "memory": '{"app":"64Mi"}'},
    )
    plan = scaling.plan(changed, set())

    assert plan.requests == {"app": {"memory": "64Mi"}}
    assert set(plan.done) == set(SAVED.values())


def test_each_container_sleeps_for_itself():
    """One asleep, one awake: its note stays, the other's goes."""
    thing = described("web")
    resources = {"requests": {"cpu": "1m"}}
    thing["spec"]["containers"] = [{"name": n, "resources": resources} for n in ("a", "b")]
    thing["metadata"]["annotations"] = {SAVED["cpu"]: '{"a":"100m","b":"200m"}'}
    plan = scaling.plan(Pod.of(thing), {"a"})

    assert plan.requests == {"b": {"cpu": "200m"}}
    assert plan.done == {SAVED["cpu"]: '{"a":"100m"}'}


def test_a_refusal_keeps_the_rest():
    """Nothing goes down; what was down comes up."""
    plan = scaling.plan(pod(BOTH), {"app"}, "for a reason")
    assert not plan
    assert plan.refused == {"app": "for a reason"}
    down = pod(LEAST, saved={"cpu": '{"app":"100m"}'})

    assert scaling.plan(down, set(), "for a reason").requests == {"app": {"cpu": "100m"}}


@pytest.mark.parametrize("asleep", [(), ("app",)])
def test_names_of_nobody_are_taken_away(asleep):
    """They come with annotations that were copied from another pod; its own note stays as long as it sleeps."""
    before = pod(LEAST if asleep else BOTH, saved={"cpu": '{"app":"100m","other":"1"}'})
    plan = scaling.plan(before, asleep)
    assert not plan.requests
    assert plan.done == {SAVED["cpu"]: '{"app":"100m"}' if asleep else None}

    assert not scaling.plan(carried_out(before, plan), asleep)


@pytest.mark.parametrize("text", ["none", "[]", '{"app":1}', '{"app":"a lot"}'])
def test_a_note_that_cannot_be_read_is_left_alone(text):
    """And said: nobody knows what it asked for."""
    plan = scaling.plan(pod({"cpu": "1m"}, saved={"cpu": text}), set())
    assert not plan
    assert "nobody knows" in plan.refused["app"]


def test_a_restart_is_too_high_a_price():
    """The kubelet would restart the container to change its memory."""
    thing = described("web")
    policy = {"resourceName": "memory", "restartPolicy": "RestartContainer"}
    thing["spec"]["containers"][0]["resizePolicy"] = [policy]
    plan = scaling.plan(Pod.of(thing), {"app"})

    assert plan.requests == {"app": {"cpu": "1m"}}
    assert "resizePolicy" in plan.refused["app"]


def test_pods_that_cannot_be_scaled():
    """Each with its reason; a Burstable one can."""
    assert "Guaranteed" in scaling.refusal(pod(qos="Guaranteed"))
    assert scaling.refusal(pod()) == ""
    thing = described("web")
    thing["spec"]["resources"] = {"requests": {"cpu": "1"}}
    assert "spec.resources" in scaling.refusal(Pod.of(thing))
    thing = described("web", annotations={"kubernetes.io/config.mirror": "x"})
    assert "static" in scaling.refusal(Pod.of(thing))


def test_who_leaves_is_left_alone():
    """Its requests go with it."""
    thing = described("web")
    thing["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    assert not scaling.plan(Pod.of(thing), {"app"})


def test_the_patch_names_containers():
    """By which the server merges the list."""
    plan = scaling.Plan(requests={"app": {"cpu": "1m"}})

    assert plan.resize(pod(BOTH)) == {
        "spec": {"containers": [{"name": "app", "resources": {"requests": {"cpu": "1m"}}}]}
    }


def test_a_sidecar_is_changed_where_it_stands():
    """Among the init containers; among the containers it would be one more, which no pod may get."""
    thing = described("web", requests=BOTH)
    sidecar = {"name": "proxy", "restartPolicy": "Always", "resources": {"requests": BOTH}}
    once = {"name": "setup", "resources": {"requests": BOTH}}
    thing["spec"]["initContainers"] = [once, sidecar]
    found = Pod.of(thing)
    changed = {"resources": {"requests": LEAST}}
    assert scaling.plan(found, {"app", "proxy"}).resize(found) == {
        "spec": {
            "containers": [{"name": "app", **changed}],
            "initContainers": [{"name": "proxy", **changed}],
        }
    }
    assert scaling.plan(found, {"proxy"}).resize(found) == {
        "spec": {"initContainers": [{"name": "proxy", **changed}]}
    }
