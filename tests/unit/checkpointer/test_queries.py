"""Which containers people mean."""

import dataclasses

import pytest

from checkpointer import api, containers, queries
from checkpointer.policy import Policy
from ttrpc import errors as rpc

RECORDS = [
    containers.Record("3", "s", "web", "test", "u", "nginx"),
    containers.Record("1", "s", "web", "default", "u", "nginx"),
    containers.Record("2", "s", "web", "default", "u", "cache"),
]


@pytest.mark.parametrize(
    ("asked", "ids"),
    [
        ({}, ["2", "1", "3"]),
        ({"pod": "web"}, ["2", "1", "3"]),
        ({"namespace": "default", "pod": "web"}, ["2", "1"]),
        ({"namespace": "default", "pod": "web", "container": "cache"}, ["2"]),
        ({"pod": "we"}, []),
    ],
)
def test_what_is_left_out_is_any(asked, ids):
    """And whole names, in the order in which they are shown."""
    assert [record.id for record in queries.find(api.m.Query(**asked), RECORDS)] == ids


def test_nobody_is_an_error_where_somebody_was_meant():
    """It says what makes a pod one of ours."""
    with pytest.raises(rpc.TtrpcError, match="default/db: no such pod") as caught:
        queries.asked(api.m.Query(namespace="default", pod="db"), RECORDS)

    assert caught.value.code == rpc.Code.NOT_FOUND


@pytest.mark.parametrize(
    ("asked", "managed", "ids"),
    [
        ({"namespace": "default"}, {"1", "3"}, ["1"]),
        ({"namespace": "default"}, {"3"}, ["2", "1"]),
        ({"namespace": "default", "container": "cache"}, {"1"}, ["2"]),
    ],
)
def test_a_pod_means_its_managed_containers(asked, managed, ids):
    """A sidecar that is left alone does not make `zeropod wake` of the pod fail; named, it says why."""
    found = queries.movable(api.m.Query(**asked), RECORDS, managed)
    assert [record.id for record in found] == ids


@pytest.mark.parametrize(
    ("known", "managed", "sleep", "why"),
    [
        ({}, True, True, ""),
        ({}, False, False, "test/web/nginx is not managed: it has not started yet"),
        ({"reason": "it has a terminal"}, False, True, "test/web/nginx is not managed: it has a terminal"),
        ({"policy": Policy(dry_run=True)}, True, True, "test/web/nginx: zeropod.ctrox.dev/dry-run is set"),
        ({"policy": Policy(dry_run=True)}, True, False, ""),
    ],
)  # fmt: skip
def test_who_asks_for_what_cannot_be_is_told_why(known, managed, sleep, why):
    """Before anything is done."""
    record = dataclasses.replace(RECORDS[0], **known)
    said = queries.refusal(record, managed=managed, sleep=sleep)
    assert said.startswith(why)
    assert bool(said) is bool(why)
