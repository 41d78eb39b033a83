"""The circuit breaker, with a clock of its own."""

import pytest

from nri_plugin import breaker


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def fuse(clock):
    return breaker.Breaker(clock)


def test_a_short_life_under_the_supervisor_makes_the_next_one_plain(fuse):
    """The reason says how short it was and where to look."""
    fuse.life_ended("pod", "web", seconds=0.4, supervised=True)
    assert "0.4 s" in fuse.reason("pod", "web")
    assert "log" in fuse.reason("pod", "web")


def test_what_it_may_have_lacked_is_named(fuse):
    """Only where there was a short life at all."""
    assert fuse.reason("pod", "web", lacks="No io_uring.") == ""
    fuse.life_ended("pod", "web", seconds=0.4, supervised=True)
    assert "No io_uring." in fuse.reason("pod", "web", lacks="No io_uring.")


@pytest.mark.parametrize(("seconds", "supervised"), [(10.0, True), (500, True), (0.4, False)])
def test_other_lives_do_not(fuse, seconds, supervised):
    """A long life, and a short one that was plain, say nothing against the supervisor."""
    fuse.life_ended("pod", "web", seconds=seconds, supervised=supervised)
    assert fuse.reason("pod", "web") == ""


def test_only_the_last_life_counts(fuse):
    """After the plain life the supervisor gets another chance."""
    fuse.life_ended("pod", "web", seconds=1, supervised=True)
    fuse.life_ended("pod", "web", seconds=1, supervised=False)
    assert fuse.reason("pod", "web") == ""


def test_a_short_life_that_ended_well_is_forgiven(fuse):
    """That very life: another one may have ended meanwhile."""
    fuse.life_ended("pod", "init", seconds=1.5, supervised=True)
    fuse.forgive("pod", "init", seconds=1.0)
    assert fuse.reason("pod", "init")
    fuse.forgive("pod", "init", seconds=1.5)
    assert fuse.reason("pod", "init") == ""
    fuse.forgive("pod", "init", seconds=1.5)


def test_containers_are_told_apart_by_pod_and_name(fuse):
    """One container's failure is not held against another of the pod, or its namesake."""
    fuse.life_ended("pod", "web", seconds=1, supervised=True)
    assert fuse.reason("pod", "db") == ""
    assert fuse.reason("other", "web") == ""


def test_it_forgets(fuse, clock):
    """A pod that is gone, and a life long past, take no memory."""
    fuse.life_ended("pod", "web", seconds=1, supervised=True)
    fuse.life_ended("old", "web", seconds=1, supervised=True)
    fuse.forget("pod")
    assert fuse.reason("pod", "web") == ""
    clock.now += breaker.MEMORY
    assert fuse.reason("old", "web") == ""
    fuse.life_ended("new", "web", seconds=1, supervised=True)
    assert list(fuse._ended) == [("new", "web")]
