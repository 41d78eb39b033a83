"""May there be one more image: its owner's limit, the node's, and what its disk must keep. Pure but for one statvfs.

Asked twice: before a sleep with an estimate of the image, and before its commit with the image itself.
"""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Self

from checkpointer.errors import Refused
from checkpointer.kinds import Kind
from checkpointer.quantities import Bytes, Share, size

FILES = 64
"""Inodes that an image takes, generously: some ten, two per process and one per thread."""


@dataclasses.dataclass(frozen=True, slots=True)
class Disk:
    """What a file system has and has left.

    Attributes:
        path: A directory on it.
        bytes: Its size.
        free: Bytes that are left.
        inodes: Its files; 0 where they are not counted.
        free_inodes: Files that can still be made.
    """

    path: Path
    bytes: int
    free: int
    inodes: int
    free_inodes: int

    @classmethod
    def of(cls, path: Path) -> Self:
        """Look at the file system of a directory."""
        found = os.statvfs(path)
        return cls(
            path,
            found.f_blocks * found.f_frsize,
            found.f_bavail * found.f_frsize,
            found.f_files,
            found.f_favail,
        )


@dataclasses.dataclass(frozen=True, slots=True)
class Budget:
    """The node's limits.

    Attributes:
        disk: Part of the disk's bytes that has to stay free.
        inodes: Part of its inodes that has to stay free.
        images: Bytes of all images together; 0 = no limit.
    """

    disk: Share
    inodes: Share
    images: Bytes

    def check(self, image: int, most: int, disk: Disk, *, stored: int, to_come: bool) -> None:
        """Agree to an image, or say what is in its way.

        Args:
            image: Its bytes.
            most: The most that its owner allows; 0 = no limit.
            disk: Where the images are.
            stored: Bytes of all images there; only looked at if they are limited.
            to_come: Whether this one is still to be written; else it is among the stored ones.

        Raises:
            Refused: it is too large, or there is no room for it.
        """
        if most and image > most:
            raise Refused(
                f"its image would have {size(image)}, and zeropod.ctrox.dev/max-image-size allows {size(most)}; raise "
                "that, or let the application use less memory",
                kind=Kind.IMAGE_SIZE,
            )
        coming, files = (image, FILES) if to_come else (0, 0)
        if self.images and stored + coming > self.images:
            raise Refused(
                f"with its image of {size(image)} all images would have {size(stored + coming)}, and the daemon's "
                f"--image-budget allows {size(self.images)}; raise that, or let fewer pods of this node sleep",
                kind=Kind.IMAGE_BUDGET,
            )
        if disk.free - coming < self.disk * disk.bytes:
            raise Refused(
                f"with its image of {size(image)} the disk of {disk.path} would have {size(max(0, disk.free - coming))} "
                f"of {size(disk.bytes)} left, less than the daemon's --disk-reserve of {self.disk}; free space on it",
                kind=Kind.DISK_LOW,
            )
        if disk.inodes and disk.free_inodes - files < self.inodes * disk.inodes:
            raise Refused(
                f"with its image the disk of {disk.path} would have {max(0, disk.free_inodes - files)} of {disk.inodes} "
                f"inodes left, less than the daemon's --inode-reserve of {self.inodes}; remove files from it",
                kind=Kind.INODES_LOW,
            )
