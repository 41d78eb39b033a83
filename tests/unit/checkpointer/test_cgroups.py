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


def limits(directory: Path, **files: str) -> Path:
    """Write cgroup files."""
    directory.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (directory / name.replace("__", ".")).write_text(text)
    return directory


def test_room_is_limit_minus_use_plus_cache(tmp_path: Path) -> None:
    """Page cache makes way; what is left below the limit counts, in both versions."""
    v2 = limits(
        tmp_path / "v2",
        memory__max="1000",
        memory__current="700",
        memory__stat="anon 1\ninactive_file 100\nactive_file 50\n",
    )
    v1 = limits(
        tmp_path / "v1",
        memory__limit_in_bytes="1000",
        memory__usage_in_bytes="700",
        memory__stat="total_inactive_file 100\ntotal_active_file 50\ninactive_file 7\n",
    )
    assert cgroups.memory_room(v2) == cgroups.memory_room(v1) == 450


def test_no_limit_is_room_without_end(tmp_path: Path) -> None:
    """Both ways of saying "no limit" are understood."""
    v2 = limits(tmp_path / "v2", memory__max="max\n", memory__current="700", memory__stat="")
    v1 = limits(
        tmp_path / "v1",
        memory__limit_in_bytes="9223372036854771712",
        memory__usage_in_bytes="700",
        memory__stat="",
    )
    assert cgroups.memory_room(v2) is None
    assert cgroups.memory_room(v1) is None
