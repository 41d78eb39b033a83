"""Directories of the node that containers see, and watches on them."""

from __future__ import annotations

import shutil
from pathlib import Path

#: Watches a path and reads the names of what happened below it.
WATCH = """
libc = ctypes.CDLL(None)
def watch(path, mask=0x3c0):
    number = libc.inotify_init1(0o4000)
    assert libc.inotify_add_watch(number, path.encode(), mask) > 0
    return number
def happened(number):
    try:
        data = os.read(number, 4096)
    except BlockingIOError:
        return []
    names = []
    while data:
        length = int.from_bytes(data[12:16], "little")
        names.append(data[16 : 16 + length].rstrip(b"\\0").decode())
        data = data[16 + length :]
    return names
"""

OLD, NEW = "..2026_01_02_03_04_05.678", "..2026_01_02_03_04_06.999"


def volume(path: Path, inside: str = "/vol", *, readonly: bool = False) -> dict[str, object]:
    """A directory of the node as a mount of a container."""
    return {"container_path": inside, "host_path": str(path), "readonly": readonly}


def atomic_writer(folder: Path, name: str, text: str) -> None:
    """Publish a configmap's files, as the kubelet does (pkg/volume/util/atomic_writer.go)."""
    before = (folder / "..data").readlink() if (folder / "..data").is_symlink() else None
    (folder / name).mkdir()
    (folder / name / "key").write_text(text)
    (folder / "..data_tmp").symlink_to(name)
    (folder / "..data_tmp").rename(folder / "..data")
    if before is None:
        (folder / "key").symlink_to("..data/key")
    else:
        shutil.rmtree(folder / before)
