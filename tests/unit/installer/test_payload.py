"""What is shipped to a node, and what of it is taken away again."""

import os

import pytest
from unit.installer.steps import ship

from installer import journal, payload
from installer.errors import InstallError


def test_the_payload_is_shipped_once(node, source):
    """Then there is nothing to do, and a new version takes its place while the old one stays for a while."""
    assert ship(node, source)
    assert ship(node, source) == []
    first = os.readlink(node.real("/opt/zeropod") / "criu")
    for version in ("two", "three"):
        (source / "criu/criu").write_text(version)
        ship(node, source)

    opt = node.real("/opt/zeropod")
    assert (opt / "criu/criu").read_text() == "three"
    assert len(list((opt / "versions").iterdir())) == payload.KEPT
    assert not (opt / first).exists()


def test_the_file_that_wakes_is_never_replaced(node, source):
    """The daemon watches that very file, in containers that sleep."""
    ship(node, source)
    wake = node.real("/opt/zeropod/container/wake")
    inode = wake.stat().st_ino
    (source / "container/wake").write_text("other")
    (source / "container/init").write_text("2")
    ship(node, source)

    assert wake.stat().st_ino == inode
    assert node.read("/opt/zeropod/container/init") == "2"


def test_what_was_not_shipped_is_not_removed(node, source):
    """Neither a file beside ours, nor a directory in criu's place."""
    ship(node, source)
    node.put("/opt/zeropod/notes.txt", "mine")
    payload.remove(node, payload.OPT)

    left = {path.name for path in node.real("/opt/zeropod").iterdir()}
    assert left == {"notes.txt", journal.NAME}


def test_half_a_version_is_not_taken_for_one(node, source):
    """Neither what a killed installation left, nor files that a loss of power has emptied."""
    ship(node, source)
    opt = node.real("/opt/zeropod")
    (opt / os.readlink(opt / "criu") / "criu").write_text("")
    (opt / "versions/abc.half").mkdir()
    (opt / "container/init.half").write_text("half")
    (opt / "criu.half").symlink_to("nowhere")
    ship(node, source)

    assert (opt / "criu/criu").read_text() == "elf"
    assert [path for path in opt.rglob("*.half") if path] == []
    assert not (opt / "criu.half").is_symlink()
    assert len(list((opt / "versions").iterdir())) == 1


def test_a_directory_in_the_place_of_our_link_is_told(node, source):
    """It is not ours to move."""
    node.put("/opt/zeropod/criu/own", "x")
    with pytest.raises(InstallError, match="not ours"):
        ship(node, source)
