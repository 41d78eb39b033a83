"""What /proc tells."""

import os
import subprocess
import time

import pytest

from nri_plugin import processes

TICK = 1 / os.sysconf("SC_CLK_TCK")
"""The kernel counts the time of a start in these, rounded down."""


def test_this_process_is_no_supervisor():
    """Only a program below /.zeropod is; a pid that is gone is none either."""
    assert not processes.is_supervisor(os.getpid())
    assert not processes.is_supervisor(2**22 + 1)


def test_age_is_the_time_since_the_start():
    """In seconds, also for a process whose name has spaces and parentheses."""
    begun = time.monotonic() - TICK
    sleeper = subprocess.Popen(["/bin/sleep", "60"])
    try:
        assert processes.exists(sleeper.pid)
        assert 0 <= processes.age(sleeper.pid) <= time.monotonic() - begun
    finally:
        sleeper.kill()
        sleeper.wait()
    assert processes.age(sleeper.pid) is None
    assert not processes.exists(sleeper.pid)


def test_a_missing_supervisor_is_named(tmp_path):
    """Absent, not executable, a directory: the reason has the path and what to do."""
    problem = processes.missing_supervisor(tmp_path)
    assert str(tmp_path / "init") in problem
    assert "installer" in problem
    (tmp_path / "init").write_text("")
    (tmp_path / "init").chmod(0o644)
    assert processes.missing_supervisor(tmp_path)
    (tmp_path / "init").chmod(0o755)
    assert processes.missing_supervisor(tmp_path) == ""
    (tmp_path / "init").unlink()
    (tmp_path / "init").mkdir(mode=0o755)
    assert processes.missing_supervisor(tmp_path)


@pytest.mark.parametrize(
    ("path", "shared"), [("/proc/1/ns/net", True), ("/proc/1/ns/mnt", False), ("/missing", False)]
)
def test_the_hosts_network_is_recognised_by_identity(path, shared):
    """The spec names a namespace by path; what counts is which one it is."""
    if not os.access("/proc/1/ns/net", os.R_OK):
        # Unreadable for an ordinary user: then nothing can be the host's.
        shared = False
    spec = {"linux": {"namespaces": [{"type": "network", "path": path}]}}
    assert processes.shares_host_network(spec) is shared


@pytest.mark.parametrize(
    "spec", [{}, {"linux": None}, {"linux": {"namespaces": [{"type": "network"}]}}]
)
def test_a_namespace_of_its_own_is_not_the_hosts(spec):
    """No path, no namespaces at all: nothing is compared."""
    assert not processes.shares_host_network(spec)
