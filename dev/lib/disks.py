"""Directories as disk images, for virtual machines: emulated ones read a disk faster than a shared folder."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from dev.lib.cache import Cache
from dev.lib.process import run

RECIPE = "1"

#: Bytes of the disk a machine writes to; what is not written takes no space.
SCRATCH = 24 << 30


def image(cache: Cache, name: str, artefact: Path) -> Path:
    """An ext4 image, to be read only, of an artefact of the cache."""

    def build(target: Path) -> None:
        used = int(run(["du", "-sB1", artefact]).split()[0])
        files = int(run(["du", "-s", "--inodes", artefact]).split()[0])
        # mkfs spreads inodes evenly over groups of blocks, and files are not spread so.
        inodes = files + files // 4 + 4096
        size = used + used // 20 + inodes * 256 + (16 << 20)
        run(["mkfs.ext4", "-q", "-F", "-m", "0", "-O", "^has_journal", "-N", str(inodes), "-d", artefact,
             target / "disk.img", str(size // 1024) + "K"])  # fmt: skip

    # Whatever the artefact was made from is in its own key.
    inputs = [RECIPE, artefact.parent.name, artefact.name]
    return cache.artefact("disk-" + name, inputs, build) / "disk.img"


def scratch() -> int:
    """An empty ext4 image without a name: it is gone when the last descriptor of it is closed."""
    handle, path = tempfile.mkstemp(prefix="zeropod-dev-", suffix=".img", dir="/var/tmp")
    try:
        os.truncate(handle, SCRATCH)
        run(
            [
                "mkfs.ext4",
                "-q",
                "-F",
                "-m",
                "0",
                "-E",
                "lazy_itable_init=1,lazy_journal_init=1",
                path,
            ]
        )
    except BaseException:
        os.close(handle)
        raise
    finally:
        os.unlink(path)
    return handle
