"""What a container's CPU time says of it."""

import os

import pytest

from checkpointer import cpu
from checkpointer.cpu import Meter, Usage


def measured(*seconds, limit=None, threshold=0.1, since=0.0, every=10.0):
    """A meter that looked at these CPU times, ten seconds apart."""
    meter = Meter()
    for number, used in enumerate(seconds, 1):
        meter.look(number * every, Usage(used, limit), threshold=threshold, since=since)
    return meter


def test_the_first_look_says_nothing():
    """A container that computed for an hour before we came may be done."""
    assert measured(3600.0).busy == 0.0
    assert (measured(3600.0).measured, measured(0.0, 0.1).measured) == (0.0, 20.0)


def test_work_is_more_than_the_threshold_since_the_last_look():
    """One core and a half of it; the last moment at which it was so is remembered."""
    assert measured(1.0, 16.0, 16.1).busy == 20.0
    assert "1.5 CPU cores" in measured(1.0, 16.0, 16.1).words
    assert measured(1.0, 1.9, 2.8).busy == 0.0


def test_a_throttled_container_works_when_it_uses_half_of_what_it_is_given():
    """With 50m it can never use 100m; idle it uses far less than either."""
    assert measured(0.0, 0.49, limit=0.05).busy == 20.0
    assert measured(0.0, 0.05, limit=0.05).busy == 0.0
    assert measured(0.0, 0.9, limit=4.0).busy == 0.0


def test_a_restore_is_not_the_containers_work():
    """What was used before it woke is criu's, and charged to it."""
    meter = measured(0.0, 5.0, since=15.0)
    assert meter.busy == 0.0
    meter.look(30.0, Usage(9.0, None), threshold=0.1, since=15.0)
    assert meter.busy == 30.0


def test_a_moment_is_no_measurement():
    """Two looks at once would make work of a timer; the next one measures from the first."""
    meter = measured(0.0, 0.05, every=0.2)
    assert meter.busy == 0.0
    meter.look(10.0, Usage(5.0, None), threshold=0.1, since=0.0)
    assert meter.busy == 10.0


@pytest.mark.parametrize(
    ("files", "seconds"),
    [
        ({"cpuacct.usage": "2500000000\n"}, 2.5),
        ({"cpu.stat": "usage_usec 2500000\nuser_usec 1\nsystem_usec 2\n"}, 2.5),
        ({"cpu.stat": "nr_periods 0\nnr_throttled 0\n"}, None),
        ({}, None),
    ],
    ids=["v1", "v2", "v1-without-cpuacct", "none"],
)
def test_cpu_time_of_both_versions_is_seconds(tmp_path, files, seconds):
    """Nanoseconds or microseconds in the files."""
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    assert cpu._seconds(tmp_path) == seconds


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({"cpu.max": "5000 100000\n"}, 0.05),
        ({"cpu.max": "max 100000\n"}, None),
        ({"cpu.cfs_quota_us": "150000\n", "cpu.cfs_period_us": "100000\n"}, 1.5),
        ({"cpu.cfs_quota_us": "-1\n", "cpu.cfs_period_us": "100000\n"}, None),
        ({}, None),
    ],
)
def test_limits_of_both_versions_are_cores(tmp_path, files, cores):
    """None where there is no limit."""
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    assert cpu._limit(tmp_path) == cores


def test_our_own_cpu_time_grows():
    """Read from this machine's cgroups, whatever their version, where anybody accounts at all."""
    before = cpu.usage(os.getpid())
    if before is not None:
        sum(range(10**6))
        after = cpu.usage(os.getpid())
        assert after is not None
        assert after.seconds >= before.seconds
