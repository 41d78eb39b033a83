"""Image directories: staged, committed by one rename, used at most once, removed.

An image is all the memory of a container, so everything is 0700 and root's. It is worth something on this boot only:
what must survive a crash of ours is on the file system at once, and nothing has to survive a crash of the machine.
The files are still synced before the commit, because that is where a full or broken disk shows itself.

A wake must work on a disk without a free block or inode. So whatever it writes is there since the commit: criu's files
are empty until then, and how far a restore has come is told by the permissions of one file, whose change takes no space
on any file system.
"""

from __future__ import annotations

import contextlib
import dataclasses
import enum
import logging
import os
import re
import shutil
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Self

from checkpointer import manifest as manifests
from checkpointer import processes, seal, writeback
from checkpointer.errors import ImageError
from checkpointer.failures import Failures
from checkpointer.kinds import Kind, is_full
from checkpointer.manifest import Manifest

_log = logging.getLogger(__name__)

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")
_FENCE = "fence"
_BEGUN, _RELEASED = "restore.begun", "restore.released"  # instead of it, in images of version 1
_LATER = ("restore.log", "stats-restore")  # what criu opens for writing in a restore


class Fence(enum.Enum):
    """How far a restore from an image has come."""

    NONE = enum.auto()  # never tried
    BEGUN = enum.auto()  # started, and the application has not run from it: it may be tried again
    RELEASED = enum.auto()  # the application was let go: this image must never be restored again

    @property
    def mode(self) -> int:
        """The permissions that tell it: fresh, in use, used up."""
        return {Fence.NONE: 0o600, Fence.BEGUN: 0o400, Fence.RELEASED: 0o000}[self]


@dataclasses.dataclass(frozen=True, slots=True)
class Image:
    """A committed image.

    Attributes:
        path: Its directory.
        manifest: What it says about itself.
    """

    path: Path
    manifest: Manifest

    def verify(self) -> None:
        """See that its files are what they were at the commit.

        Raises:
            ImageError: one is not.
        """
        if wrong := seal.broken(self.path, self.manifest.files):
            raise ImageError(f"the image is damaged: {wrong}", kind=Kind.IMAGE_CORRUPT)

    def fence_state(self) -> Fence:
        """Say how far a restore from it has come."""
        try:
            mode = stat.S_IMODE((self.path / _FENCE).stat().st_mode)
        except FileNotFoundError:
            if (self.path / _RELEASED).exists():
                return Fence.RELEASED
            return Fence.BEGUN if (self.path / _BEGUN).exists() else Fence.NONE
        # Whatever somebody made of it: not to be sure is to have used it.
        return next((fence for fence in Fence if fence.mode == mode), Fence.RELEASED)

    def _fence(self, fence: Fence) -> None:
        try:
            try:
                (self.path / _FENCE).chmod(fence.mode)
            except FileNotFoundError:  # an image of version 1
                os.close(os.open(self.path / _FENCE, os.O_CREAT | os.O_CLOEXEC, fence.mode))
        except OSError as error:
            raise _unwritable(error) from error

    def begin(self) -> None:
        """Note that a restore starts.

        Raises:
            ImageError: the application has already run from this image, or it cannot be noted.
        """
        if self.fence_state() is Fence.RELEASED:
            raise ImageError(
                "the image was used: its application has run on since", kind=Kind.IMAGE_USED
            )
        self._fence(Fence.BEGUN)

    def release(self) -> None:
        """Note that the application is let go from it: done before it can run.

        Raises:
            ImageError: it cannot be noted.
        """
        self._fence(Fence.RELEASED)

    def withdraw(self) -> None:
        """Note that a restore failed before the application could run, and that nothing is left of it."""
        self._fence(Fence.NONE)

    def reopen(self) -> None:
        """Allow one more restore from an image that was used: only after a failed drain of its lazy pages."""
        self._fence(Fence.BEGUN)

    def drop(self) -> None:
        """Remove it; the rename makes it disappear at once, however large it is.

        Its application runs by now: an image that cannot be removed is stale and does no harm.
        """
        try:
            remove(self.path)
        except OSError as error:
            _log.warning("image.left", extra={"path": str(self.path), "error": str(error)})


def remove(path: Path) -> None:
    """Remove an image directory: first its name, then the files."""
    doomed = path.with_name(f".{path.name}~{time.monotonic_ns()}")
    if not path.exists():
        return
    try:
        path.rename(doomed)
    except FileNotFoundError:
        return
    except OSError as error:
        if not is_full(error):
            raise
        # There is no room for another name; without its manifest it is no image either.
        (path / manifests.NAME).unlink(missing_ok=True)
        doomed = path
    shutil.rmtree(doomed, ignore_errors=True)


def size(path: Path) -> int:
    """Return the bytes of the files in a directory."""
    total = 0
    with contextlib.suppress(FileNotFoundError):
        for entry in path.rglob("*"):
            with contextlib.suppress(FileNotFoundError):
                total += entry.lstat().st_size
    return total


def pages(path: Path) -> int:
    """Return the bytes of memory in an image directory, at most: a pre-dump's may have changed since."""
    return sum(entry.stat().st_size for entry in path.rglob("pages-*.img"))


class Staged:
    """An image in the making; leaving the context without a commit removes it."""

    def __init__(self, store: Store, container_id: str, path: Path) -> None:
        self._store = store
        self._id = container_id
        self.path = path
        self.fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self.image: Image | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.fd)
        if self.image is None:
            remove(self.path)

    def take_in(self, other: Staged, name: str) -> None:
        """Make what was staged for this one a directory of it.

        Raises:
            ImageError: the file system does not let us.
        """
        try:
            other.path.rename(self.path / name)
        except OSError as error:
            raise _unwritable(error) from error

    def commit(self, manifest: Manifest) -> Image:
        """Make the image complete and visible, or neither.

        Raises:
            ImageError: a file could not be written out, or an image of this container is there already.
        """
        target = self._store.images / self._id
        try:
            written = self.path / manifests.NAME
            written.write_bytes(manifest.encode())
            for name in (_FENCE, *_LATER):
                (self.path / name).touch(0o600)
            writeback.begin(self.path)  # of all, or each fsync would wait for a write of its own
            for entry in self.path.rglob("*"):
                if not entry.is_symlink():
                    self._sync(entry)
            self._sync(self.path)
            self.path.rename(target)
        except OSError as error:
            raise _unwritable(error) from error
        try:
            self._sync(self._store.images)
        except OSError as error:
            remove(target)
            raise _unwritable(error) from error
        self.path = target
        self.image = Image(target, manifest)
        return self.image

    def revoke(self) -> None:
        """Take a commit back: the application lives on after all."""
        self.image = None

    def _sync(self, path: Path) -> None:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            self._store.fsync(fd)
        finally:
            os.close(fd)


class Store:
    """All images of a node.

    Attributes:
        images: Committed ones, by container id.
        failures: What is kept for a look.
        fsync: How files are synced; tests let it fail.
    """

    def __init__(self, root: Path, fsync: Callable[[int], None] = os.fsync) -> None:
        self.root = root
        self.images, self._staging, failed = (
            root / name for name in ("images", "staging", "failed")
        )
        self.failures = Failures(failed)
        self.fsync = fsync
        for directory in (root, self.images, self._staging, failed):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            directory.chmod(0o700)
        self._sweep()
        self.failures.bound()

    def _sweep(self) -> None:
        """Remove what daemons that have ended left half done."""
        for entry in self._staging.iterdir():
            owner = entry.name.split("~")[1:3]
            if len(owner) < 2 or not processes.alive(int(owner[0]), int(owner[1])):
                remove(entry)
        for entry in self.images.glob(".*"):
            shutil.rmtree(entry, ignore_errors=True)
        for container_id in self.all():
            # What does not say that it is another boot's may be all that is left of somebody.
            with contextlib.suppress(ImageError, OSError):
                if self._manifest(container_id).boot_id != manifests.boot_id():
                    self.drop(container_id)

    def _manifest(self, container_id: str) -> Manifest:
        return Manifest.decode((self.images / container_id / manifests.NAME).read_bytes())

    def stage(self, container_id: str) -> Staged:
        """Start an image.

        Raises:
            ImageError: its directory cannot be made.
        """
        own = f"{os.getpid()}~{processes.start_time(os.getpid())}~{time.monotonic_ns()}"
        path = self._staging / f"{_checked(container_id)}~{own}"
        try:
            path.mkdir(mode=0o700)
        except OSError as error:
            raise _unwritable(error) from error
        return Staged(self, container_id, path)

    def load(self, container_id: str) -> Image | None:
        """Return the committed image of a container, None if there is none.

        Raises:
            ImageError: there is one that must not be used; the reason says why.
        """
        path = self.images / _checked(container_id)
        try:
            manifest = self._manifest(container_id)
        except FileNotFoundError:
            if path.exists():
                raise ImageError("the image has no manifest") from None
            return None
        except OSError as error:
            raise ImageError(f"the image's manifest cannot be read: {error}") from error
        if manifest.container_id != container_id:
            raise ImageError(
                f"the image is of another container, {manifest.container_id}",
                kind=Kind.IMAGE_FOREIGN,
            )
        if manifest.boot_id != manifests.boot_id():
            raise ImageError(
                "the image is from before the machine was started", kind=Kind.IMAGE_FOREIGN
            )
        if manifest.kernel != manifests.kernel():
            raise ImageError(
                f"the image is from another kernel, {manifest.kernel}", kind=Kind.IMAGE_FOREIGN
            )
        return Image(path, manifest)

    def all(self) -> list[str]:
        """Return the ids of containers that have a committed image."""
        return sorted(
            entry.name for entry in self.images.iterdir() if not entry.name.startswith(".")
        )

    def drop(self, container_id: str) -> None:
        """Remove a container's image, if there is one.

        Raises:
            ImageError: it cannot be removed.
        """
        try:
            remove(self.images / _checked(container_id))
        except OSError as error:
            raise _unwritable(error) from error

    def fail(self, container_id: str) -> Path | None:
        """Put a container's image aside for a look; None if there is none.

        Raises:
            OSError: it cannot be moved.
        """
        return self.failures.take(container_id, self.images / _checked(container_id))

    def gc(self, live: set[str]) -> list[str]:
        """Remove the images of containers that are no more; return their ids."""
        dropped = [container_id for container_id in self.all() if container_id not in live]
        for container_id in dropped:
            try:
                self.drop(container_id)
            except ImageError as error:  # the next daemon tries again
                _log.warning(
                    "image.left", extra={"container": container_id, "error": error.reason}
                )
        return dropped

    def usage(self) -> int:
        """Return the bytes of everything in the store."""
        return sum(size(entry) for entry in self._entries())

    def _entries(self) -> Iterator[Path]:
        for name in ("images", "staging", "failed"):
            yield from (self.root / name).iterdir()


def _unwritable(error: OSError) -> ImageError:
    if isinstance(error, FileNotFoundError):
        return ImageError("the image is gone: somebody has removed it", kind=Kind.IMAGE_MISSING)
    kind = Kind.DISK_FULL if is_full(error) else Kind.IMAGE_UNWRITABLE
    return ImageError(f"the image cannot be written or removed: {error}", kind=kind)


def _checked(container_id: str) -> str:
    """Return an id that is safe as a file name."""
    if not _ID.fullmatch(container_id):
        raise ImageError(f"not a container id: {container_id!r}")
    return container_id
