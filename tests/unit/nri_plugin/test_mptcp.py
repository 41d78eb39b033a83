"""Who has MPTCP off because of us; network namespaces are a dictionary."""

from __future__ import annotations

import pytest

from nri_plugin import mptcp


@pytest.fixture
def enabled():
    """The sysctl by process."""
    return {1: True, 2: True, 3: False}


@pytest.fixture
def pods(tmp_path, enabled):
    """Makes what one plugin after the other knows."""

    def switch(pid, on):
        if pid not in enabled:
            raise ProcessLookupError(pid)
        before, enabled[pid] = enabled[pid], on
        return before != on

    return lambda: mptcp.Pods(tmp_path / "state", switch)


async def test_it_is_given_back_by_the_next_plugin(pods, enabled):
    """What was taken away outlives the one that took it; given back once, it is nobody's business any more."""
    await pods().off("a", 1)
    assert not enabled[1]
    successor = pods()
    assert successor.known() == {"a"}
    await successor.on("a", 1)
    assert enabled[1]
    enabled[1] = False
    await pods().on("a", 1)
    assert not enabled[1]


async def test_what_was_off_before_stays_off(pods, enabled):
    """By the pod's own wish, for instance."""
    await pods().off("c", 3)
    await pods().on("c", 3)
    assert not enabled[3]
    assert pods().known() == set()


async def test_a_pod_that_is_gone_is_forgotten(pods):
    """Its network namespace is gone with it, and a process of its number may be anybody."""
    known = pods()
    known.forget("never-heard-of")
    await known.off("a", 1)
    await known.off("b", 2)
    known.forget("a")
    assert pods().known() == {"b"}


async def test_a_pod_that_goes_meanwhile_is_no_error(pods):
    """Its last container stops because it is deleted, and with it its network namespace."""
    known = pods()
    await known.off("a", 1)
    await known.on("a", 4)
    assert known.known() == set()
