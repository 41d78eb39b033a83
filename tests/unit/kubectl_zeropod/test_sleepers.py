"""From objects of the API to containers."""

from __future__ import annotations

import pytest
from fakes.pods import pod

from kubectl_zeropod import sleepers


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-5, "0s"),
        (119, "119s"),
        (120, "2m"),
        (185, "3m5s"),
        (600, "10m"),
        (10799, "179m"),
        (10800, "3h"),
        (18000 + 120, "5h2m"),
        (86400, "24h"),
        (3 * 86400 + 7200, "3d2h"),
        (9 * 86400, "9d"),
        (800 * 86400, "2y70d"),
    ],
)
def test_ages_are_written_as_kubectl_does(seconds, text):
    """So that both can be compared at a glance."""
    assert sleepers.span(seconds) == text


def test_only_named_containers_may_sleep():
    """container-names, with white space around."""
    two = [{"name": "a"}, {"name": "b"}]
    one = pod("p", annotations={"zeropod.ctrox.dev/container-names": " b "}, containers=two)

    assert [found.container for found in sleepers.of_pod(one)] == ["b"]


def test_sidecars_may_sleep_and_init_containers_may_not():
    """Init containers that go on running."""
    inits = [{"name": "once"}, {"name": "side", "restartPolicy": "Always"}]
    one = pod("p", runtimeClassName="zeropod", initContainers=inits)

    assert [found.container for found in sleepers.of_pod(one)] == ["side", "app"]


def test_a_pod_that_is_not_scheduled_yet():
    """Has no node and no statuses."""
    one = pod("p", runtimeClassName="zeropod")
    del one["spec"]["nodeName"], one["status"]

    assert sleepers.of_pod(one)[0].node == ""


def event(reason, time, **more):
    return {
        "metadata": {"name": reason, "creationTimestamp": "2026-01-01T00:00:00Z"},
        "involvedObject": {
            "kind": "Pod",
            "namespace": "n",
            "name": "p",
            "fieldPath": "spec.containers{c}",
        },
        "reason": reason,
        "message": "m",
        "lastTimestamp": time,
        "source": {"component": "zeropod"},
        **more,
    }


def test_the_latest_event_counts_in_any_order():
    """An event that was counted again has a later time in its series."""
    old = event("Old", "2026-01-01T10:00:00Z")
    again = event("Again", None, series={"lastObservedTime": "2026-01-01T12:00:00.5Z"})
    new = event("New", "2026-01-01T11:00:00Z", type="Warning")

    assert sleepers.told([again, old, new])["n/p/c"].reason == "Again"
    assert sleepers.told([new, old])["n/p/c"].warning


def test_events_on_the_pod_itself_are_nobodys():
    """Only those that name a container."""
    other = event("x", "2026-01-01T10:00:00Z")
    other["involvedObject"] |= {"fieldPath": None}

    assert sleepers.told([other]) == {}
