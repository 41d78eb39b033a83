"""Where watched files are."""

from __future__ import annotations

import os
from pathlib import Path

from checkpointer import watches
from checkpointer.descriptors import Process, Watch

MOUNTINFO = """\
500 400 0:52 / / rw,relatime - overlay overlay rw,lowerdir=/a,upperdir=/b,workdir=/c
501 500 0:60 / /proc rw - proc proc rw
502 500 254:0 /volumes/x /data rw - ext4 /dev/vda rw
"""


def watch(path: Path) -> Watch:
    """The watch of an existing path."""
    status = path.lstat()
    return Watch(status.st_dev, status.st_ino)


def test_only_the_root_can_be_an_overlay_that_is_searched() -> None:
    """Volumes have file systems that know their files by handle, and criu asks those."""
    assert watches._overlay(MOUNTINFO) == os.makedev(0, 52)
    assert watches._overlay(MOUNTINFO.replace("overlay", "btrfs")) is None


def test_files_are_found_by_their_inodes() -> None:
    """Below the root and the root itself, each once, and what has no name is left out."""
    wanted = {watch(Path("/")), watch(Path("/etc/passwd")), Watch(watch(Path("/")).device, 0)}
    found = watches.find(os.getpid(), wanted)
    assert sorted(found.values()) == ["/", "/etc/passwd"]


def test_what_was_found_is_tried_first_and_not_believed() -> None:
    """A path of the last time is looked at; it may be another file by now."""
    here, there = watch(Path("/etc/passwd")), watch(Path("/etc/group"))
    found = watches.find(os.getpid(), [here, there], {here: "/etc/passwd", there: "/etc/hosts"})
    assert found == {here: "/etc/passwd", there: "/etc/group"}


def test_the_watches_of_a_tree(tmp_path: Path) -> None:
    """Those on the overlay, of all processes; without one there is nothing to look for."""
    other = Watch(os.makedev(254, 0), 7)
    tree = [Process(1, 0, (), (), watches=(other,)), Process(2, 0, (), (), watches=(other,))]
    assert other not in watches.wanted(tree, os.getpid())


def test_what_a_known_path_leads_to_by_a_link_is_not_looked_at(tmp_path: Path) -> None:
    """A container may have put a link where a folder was, and what is behind it may be the host's."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "folder")
    here = watch(tmp_path / "folder" / "file")
    assert watches.find(os.getpid(), [here], {here: f"{tmp_path}/link/file"}) != {
        here: f"{tmp_path}/link/file"
    }
