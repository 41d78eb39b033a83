"""Files of an image that others may change meanwhile."""

from __future__ import annotations

import os
import stat
import struct
from pathlib import Path
from typing import Any

import pytest

from checkpointer import held, volumes
from checkpointer.errors import Refused

TIMESTAMP = "..2026_01_02_03_04_05.678"


def image(*entries: Any) -> bytes:
    """A files.img."""
    raw = [entry.SerializeToString() for entry in entries]
    return held.MAGIC + b"".join(struct.pack("<I", len(one)) + one for one in raw)


def regular(name: str, flags: int = os.O_RDONLY, number: int = 1) -> Any:
    """The entry of a file that is open."""
    entry = held.messages().file_entry(type=1, id=number)  # REG
    entry.reg.id, entry.reg.flags, entry.reg.pos, entry.reg.name = number, flags, 0, name
    entry.reg.fown.uid = entry.reg.fown.euid = entry.reg.fown.signum = 0
    entry.reg.fown.pid_type = entry.reg.fown.pid = 0
    entry.reg.size, entry.reg.mode = 5, stat.S_IFREG | 0o640
    return entry


def watching(path: str) -> Any:
    """The entry of an inotify descriptor with one watch."""
    entry = held.messages().file_entry(type=17, id=9)  # INOTIFY
    entry.ify.id, entry.ify.flags = 9, 0
    entry.ify.fown.uid = entry.ify.fown.euid = entry.ify.fown.signum = 0
    entry.ify.fown.pid_type = entry.ify.fown.pid = 0
    wd = entry.ify.wd.add(id=9, i_ino=3, mask=2, s_dev=1, wd=1, ignored_mask=0)
    wd.f_handle.bytes, wd.f_handle.type, wd.f_handle.path = 8, 1, path
    return entry


def read(data: bytes) -> dict[str, Any]:
    """The regular files of a files.img by name."""
    return {entry.reg.name: entry.reg for _, entry in held.entries(data) if entry.HasField("reg")}


def test_mount_points_are_read_from_mountinfo() -> None:
    """All but the root."""
    text = "1 0 0:52 / / rw - overlay o rw\n2 1 0:60 / /data rw - ext4 /dev/vda rw\n"
    assert volumes.mount_points(text) == ("/data",)


def test_sizes_of_files_on_volumes_are_forgotten() -> None:
    """And nothing else: a file of the container's own is the same at the wake."""
    data = image(regular("/data/log"), regular("/data"), regular("/database"), watching("/data"))
    after = volumes.rewritten(data, ("/data",))
    sizes = {name: entry.HasField("size") for name, entry in read(after).items()}
    assert sizes == {"/data/log": False, "/data": False, "/database": True}
    assert len(list(held.entries(after))) == 4
    assert read(after)["/data/log"].mode == stat.S_IFREG | 0o640


def test_an_image_without_such_files_stays_as_it_is() -> None:
    """Byte for byte."""
    data = image(regular("/etc/x"), watching("/etc"))
    assert volumes.rewritten(data, ("/data",)) == data


@pytest.mark.parametrize("entry", [regular(f"/c/{TIMESTAMP}/k"), watching(f"/c/{TIMESTAMP}")])
def test_what_the_kubelet_replaces_is_refused(entry: Any) -> None:
    """A watch is as good as an open file: at the wake there is nothing to watch."""
    with pytest.raises(Refused, match="kubelet replaces"):
        volumes.rewritten(image(entry), ())


def test_logs_that_were_rotated_are_made_again(tmp_path: Path) -> None:
    """Those that were only written to, with their mode; one that can be read, or gives rights, is not replaced."""
    there = tmp_path / "there"
    there.write_text("old")
    privileged = regular(str(tmp_path / "setuid"), os.O_WRONLY)
    privileged.reg.mode = stat.S_IFREG | stat.S_ISUID | 0o777
    entries = [
        regular(str(tmp_path / "log"), os.O_WRONLY | os.O_APPEND),
        regular(str(tmp_path / "database"), os.O_RDWR),
        regular(str(there), os.O_WRONLY),
        regular("/elsewhere/log", os.O_WRONLY),
        privileged,
    ]
    root = os.open("/", os.O_PATH)
    try:
        made = volumes.make_again(image(*entries), root, (str(tmp_path),))
    finally:
        os.close(root)
    assert made == [str(tmp_path / "log")]
    assert (tmp_path / "log").stat().st_mode & 0o777 == 0o640
    assert there.read_text() == "old"
    assert not (tmp_path / "database").exists()
    assert not (tmp_path / "setuid").exists()  # it would be the folder's owner's


@pytest.mark.parametrize("link", ["/elsewhere", "../../elsewhere", "elsewhere"])
def test_no_link_in_a_logs_path_is_followed(tmp_path: Path, link: str) -> None:
    """A container may put one where a folder of its own was: nothing is made behind it, inside or outside."""
    root = tmp_path / "root"
    for folder in (tmp_path / "elsewhere", root / "elsewhere", root / "data" / "elsewhere"):
        folder.mkdir(parents=True)
    (root / "data" / "logs").symlink_to(link)
    fd = os.open(root, os.O_PATH)
    try:
        with pytest.raises(OSError, match="openat2"):
            volumes.make_again(image(regular("/data/logs/log", os.O_WRONLY)), fd, ("/data",))
    finally:
        os.close(fd)
    assert not list(tmp_path.rglob("log"))
