"""What has been built once and can be used again, outside the repository.

An artefact is a directory `<cache>/<name>/<key>`, the key a hash of everything it was made from. It
appears by a rename, complete or not at all, so an interrupted build leaves only a temporary name
that the next builder of the same artefact removes. Whoever uses an artefact holds a shared lock on
it; what nobody holds and nobody would build again is removed.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import shutil
import time
from pathlib import Path
from typing import Callable, Dict, Iterable, Optional, Union

from dev.lib.errors import DevError
from dev.lib.process import run

log = logging.getLogger("dev")

Input = Union[str, Path]


def default_root() -> Path:
    """`$ZEROPOD_DEV_CACHE`, or `zeropod` in the user's cache directory."""
    chosen = os.environ.get("ZEROPOD_DEV_CACHE")
    if chosen:
        return Path(chosen).expanduser().resolve()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser().resolve() / "zeropod"


def key_of(inputs: Iterable[Input]) -> str:
    """A short hash over texts and over the names and contents of files."""
    digest = hashlib.sha256()
    for item in inputs:
        data = item.encode() if isinstance(item, str) else item.read_bytes()
        name = "" if isinstance(item, str) else item.name
        digest.update(b"%s %d\n" % (name.encode(), len(data)))
        digest.update(data)
    return digest.hexdigest()[:16]


class Cache:
    """All artefacts; keeps a lock on each one it handed out until this process ends."""

    def __init__(self, root: Optional[Path] = None) -> None:
        self.root = root or default_root()
        if set(str(self.root)) & set(":,\\"):
            # They separate the layers and options of an overlay mount.
            raise DevError("the cache's path must not contain ':', ',' or '\\': %s" % self.root)
        self.root.mkdir(parents=True, exist_ok=True)
        self.locks: Dict[Path, int] = {}

    def artefact(self, name: str, inputs: Iterable[Input], build: Callable[[Path], None]) -> Path:
        """The directory for these inputs, built now if it is not there.

        `build` gets an empty directory to fill; when it raises, nothing remains.
        """
        folder = self.root / name
        folder.mkdir(parents=True, exist_ok=True)
        key = key_of(inputs)
        path = folder / key
        # The shared lock comes before the look: nobody can prune in between.
        self._hold(path)
        if path.is_dir():
            return path
        builder = _lock_file(folder / ".lock")
        try:
            if not _try_lock(builder, fcntl.LOCK_EX):
                log.info("waiting for another run that builds %s", name)
                fcntl.flock(builder, fcntl.LOCK_EX)
            if not path.is_dir():
                self._build(name, path, build)
                self._prune(folder, path)
        finally:
            os.close(builder)
        return path

    def close(self) -> None:
        """Gives up the locks: from now on what was handed out may disappear."""
        while self.locks:
            os.close(self.locks.popitem()[1])

    def _build(self, name: str, path: Path, build: Callable[[Path], None]) -> None:
        for stale in path.parent.glob(".new-*"):
            shutil.rmtree(stale)
        fresh = path.parent / (".new-" + path.name)
        fresh.mkdir(mode=0o755)
        log.info("building %s", name)
        begun = time.monotonic()
        try:
            build(fresh)
        except BaseException:
            shutil.rmtree(fresh, ignore_errors=True)
            raise
        # ext4 may keep a rename and lose the data behind it in a power cut.
        run(["sync", "-f", fresh])
        fresh.rename(path)
        log.info("built %s in %.0f s", name, time.monotonic() - begun)

    def _prune(self, folder: Path, keep: Path) -> None:
        for old in folder.iterdir():
            if old == keep or old.name.startswith(".") or not old.is_dir():
                continue
            lock = _lock_file(_lock_path(old))
            try:
                if _try_lock(lock, fcntl.LOCK_EX):
                    doomed = folder / (".new-" + old.name)
                    old.rename(doomed)
                    shutil.rmtree(doomed)
            finally:
                os.close(lock)

    def _hold(self, path: Path) -> None:
        if path not in self.locks:
            lock = _lock_file(_lock_path(path))
            fcntl.flock(lock, fcntl.LOCK_SH)
            self.locks[path] = lock


def _lock_path(path: Path) -> Path:
    return path.parent / (".%s.lock" % path.name)


def _lock_file(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


def _try_lock(lock: int, kind: int) -> bool:
    try:
        fcntl.flock(lock, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
