"""Cgroups: paths through whatever is mounted, and room told before an OOM tells it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from checkpointer import cgroups
from checkpointer.cgroups import Cgroups

V1 = Cgroups(
    {"memory": Path("/m/x"), "cpu,cpuacct": Path("/c/x"), "name=systemd": Path("/s/x")},
    Path("/u/x"),
)


def test_a_controller_is_where_it_governs() -> None:
    """Version 1 if the controller is mounted there, else version 2, else nowhere."""
    assert V1.controller("memory") == Path("/m/x")
    assert V1.controller("cpuacct") == Path("/c/x")
    assert V1.controller("pids") == Path("/u/x")
    assert Cgroups({}, None).controller("memory") is None


def test_all_hierarchies_have_their_names() -> None:
    """The version 2 hierarchy has no name, as in /proc/PID/cgroup."""
    assert V1.plain() == {
        "memory": "/m/x",
        "cpu,cpuacct": "/c/x",
        "name=systemd": "/s/x",
        "": "/u/x",
    }


def test_our_own_cgroups_exist() -> None:
    """What is said about this process are directories that are there."""
    mine = cgroups.of(os.getpid()).all()
    if not mine:
        pytest.fail("no cgroup file system is mounted here")
    assert all(path.is_dir() for path in mine.values())


def test_a_process_that_has_gone_is_told() -> None:
    """There is no cgroup of a process that is no more."""
    with pytest.raises(ProcessLookupError):
        cgroups.of(2**22)


@pytest.mark.parametrize(
    ("path", "root", "below"),
    [
        ("/kubepods/x", "/", "kubepods/x"),
        ("/node/kubepods/x", "/node", "kubepods/x"),
        ("/node", "/node", ""),
        ("/../kubepods/x", "/..", "kubepods/x"),
    ],
)
def test_paths_are_below_what_is_mounted(path: str, root: str, below: str) -> None:
    """A path is cut at the root of the mount through which we see it."""
    assert cgroups.below(path, root) == below


def test_what_is_not_mounted_is_an_error() -> None:
    """A cgroup outside of the mount is not taken for another one of the same name."""
    with pytest.raises(cgroups.ZygoteError, match="outside"):
        cgroups.below("/other/x", "/node")


def test_cgroups_without_processes_are_not_inhabited(tmp_path: Path) -> None:
    """What the runtime has not removed yet, and what only has cgroups of its own in it."""
    for name, text in {"pause": "1\n", "web": "7\n8\n", "gone": "", "web/nested": "9\n"}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "cgroup.procs").write_text(text)
    assert cgroups.inhabited(tmp_path) == 2
