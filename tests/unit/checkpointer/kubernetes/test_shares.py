"""The share of the CPU that somebody wakes with."""

from __future__ import annotations

import pytest
from fakes.clusters import described

from checkpointer import cgroups
from checkpointer.kubernetes import shares
from checkpointer.kubernetes.pods import SAVED, Pod


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """Cgroups of a pod and its container, as version 1 or 2 has them."""
    container = tmp_path / "pod" / "container"
    container.mkdir(parents=True)

    def make(name, value):
        monkeypatch.setattr(cgroups, "of", lambda _pid: cgroups.Cgroups({}, container))
        for directory in (container, container.parent):
            (directory / name).write_text(str(value))
        return lambda: [int((d / name).read_text()) for d in (container, container.parent)]

    return make


def pod(saved="{}", **others):
    thing = described("web", requests={"cpu": "1m"}, annotations={SAVED["cpu"]: saved})
    containers = thing["spec"]["containers"]
    containers += [{"name": n, "resources": {"requests": {"cpu": v}}} for n, v in others.items()]
    return Pod.of(thing)


def test_who_wakes_has_the_share_of_what_it_had(tree):
    """Its pod has that of all its containers."""
    read = tree("cpu.shares", 2)
    shares.lift(pod(sidecar="250m"), {"app": "500m"}, "app", 1)
    assert read() == [512, 768]


def test_version_2_has_weights(tree):
    """Between 1 and 10000."""
    read = tree("cpu.weight", 1)
    shares.lift(pod(), {"app": "1"}, "app", 1)
    assert read() == [39, 39]


def test_a_share_is_never_lowered(tree):
    """Somebody else may know better."""
    read = tree("cpu.shares", 2000)
    shares.lift(pod(), {"app": "500m"}, "app", 1)
    assert read() == [2000, 2000]


@pytest.mark.parametrize("lowered", [{}, {"other": "1"}])
def test_who_was_not_lowered_keeps_his_share(tree, lowered):
    """Whatever the pod's annotations claim, which are for its owner to write."""
    read = tree("cpu.shares", 2)
    shares.lift(pod('{"app":"64","other":"64"}'), lowered, "app", 1)
    assert read() == [2, 2]


@pytest.mark.parametrize("much", ["1e999990", "1e999999999", "300000"])
def test_more_than_there_can_be_is_the_most(tree, much):
    """At once, since the daemon's event loop waits for it."""
    read = tree("cpu.shares", 2)
    shares.lift(pod(), {"app": much}, "app", 1)
    assert read() == [262144, 262144]


def test_who_has_gone_meanwhile_is_no_mistake(monkeypatch):
    """The kubelet may be quicker."""

    def gone(_pid):
        raise ProcessLookupError

    monkeypatch.setattr(cgroups, "of", gone)
    shares.lift(pod(), {"app": "1"}, "app", 1)
