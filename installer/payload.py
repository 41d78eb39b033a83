"""The files that a node needs: the supervisor that containers see, and criu for the daemon.

criu's bundle is a directory by version with a link to it, so that a daemon which runs finds all of one version. The
directory that containers see is mounted in them: it stays the same for ever, its files are replaced one by one, and the
file that is opened to be woken is never replaced, because the daemon watches that very file.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from installer.errors import InstallError
from installer.host import Host, sync
from installer.journal import Journal

OPT = "/opt/zeropod"
BUNDLE, CONTAINER, WAKE, VERSIONS = "criu", "container", "wake", "versions"
KEPT = 2  # versions of the bundle: a daemon of the last one may still run


def ship(host: Host, source: Path, opt: str, journal: Journal) -> list[str]:
    """Bring the payload to the node; return what was done, for people.

    Args:
        host: The node.
        source: Directory with `criu/` and `container/`.
        opt: The directory for it on the node.
        journal: Where is written down what is made.

    Raises:
        InstallError: it is not whole, or cannot be written.
    """
    if not (source / BUNDLE).is_dir() or not (source / CONTAINER).is_dir():
        raise InstallError(
            f"{source} has no {BUNDLE}/ and {CONTAINER}/", "use the image as it was built"
        )
    real = host.real(opt)
    try:
        journal.making(*host.missing(f"{opt}/{CONTAINER}/x"))
        (real / CONTAINER).mkdir(mode=0o755, parents=True, exist_ok=True)
        for half in _halves(real):
            _discard(half)
        return [
            *_ship_bundle(real, source / BUNDLE, opt),
            *_ship_container(real, source / CONTAINER, opt),
        ]
    except OSError as error:
        raise InstallError(
            f"{error.filename or opt} cannot be written ({error.strerror})",
            f"give {opt} of this node 20 MB in a file system that is writable and not noexec, or choose another "
            "directory (--opt)",
        ) from error


def plan(host: Host, source: Path, opt: str) -> list[str]:
    """Return what `ship` would write, for people; it may be that nothing can be read of it here."""
    real, done = host.real(opt), []
    if (source / BUNDLE).is_dir():
        version = f"{VERSIONS}/{digest(source / BUNDLE)}"
        if not (real / version).is_dir():
            done.append(f"{opt}/{version}")
        if not (real / BUNDLE).is_symlink() or os.readlink(real / BUNDLE) != version:
            done.append(f"{opt}/{BUNDLE}")
    for path in sorted((source / CONTAINER).glob("*")):
        target = real / CONTAINER / path.name
        if not target.exists() or not (path.name == WAKE or _same(path, target)):
            done.append(f"{opt}/{CONTAINER}/{path.name}")
    return done


def digest(directory: Path) -> str:
    """Name the content of a directory: names, modes and bytes."""
    seen = hashlib.sha256()
    for path in sorted(directory.rglob("*")):
        seen.update(f"{path.relative_to(directory)}\0{path.lstat().st_mode:o}\0".encode())
        if path.is_symlink():
            seen.update(os.readlink(path).encode())
        elif path.is_file():
            seen.update(path.read_bytes())
    return seen.hexdigest()[:16]


def _halves(opt: Path) -> Iterator[Path]:
    """What an installation that was killed has left half-written."""
    for directory in (opt, opt / VERSIONS, opt / CONTAINER):
        if directory.is_dir():
            yield from (path for path in directory.iterdir() if path.name.endswith(".half"))


def _discard(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def _ship_bundle(opt: Path, source: Path, shown: str) -> list[str]:
    name = digest(source)
    versions, link = opt / VERSIONS, opt / BUNDLE
    target = versions / name
    done = []
    # A loss of power may leave a directory with the right name and files without content.
    if not target.is_dir() or digest(target) != name:
        versions.mkdir(mode=0o755, exist_ok=True)
        half = versions / f"{name}.half"
        shutil.copytree(source, half, symlinks=True)
        os.utime(
            half
        )  # which of two is older is about this node, not about when an image was built
        _sync_all(half)
        if target.is_dir():
            target.rename(versions / f"{name}.broken.half")
            _discard(versions / f"{name}.broken.half")
        half.rename(target)
        sync(versions)
        done.append(f"wrote criu to {shown}/{VERSIONS}/{name}")
    if not link.is_symlink() or os.readlink(link) != f"{VERSIONS}/{name}":
        if link.is_dir() and not link.is_symlink():
            raise InstallError(f"{shown}/{BUNDLE} is a directory", "move it away: it is not ours")
        fresh = opt / f"{BUNDLE}.half"
        fresh.symlink_to(f"{VERSIONS}/{name}")
        fresh.replace(link)
        sync(opt)
        done.append(f"made {shown}/{BUNDLE} point to it")
    for old in _older(versions, keep=name):
        shutil.rmtree(old, ignore_errors=True)
        done.append(f"removed the older {shown}/{VERSIONS}/{old.name}")
    return done


def _older(versions: Path, keep: str) -> list[Path]:
    others = [path for path in versions.iterdir() if path.name != keep]
    others.sort(key=lambda path: path.lstat().st_mtime, reverse=True)
    return others[KEPT - 1 :]


def _sync_all(directory: Path) -> None:
    for path in directory.rglob("*"):
        if path.is_file() and not path.is_symlink():
            _sync_file(path)
        elif path.is_dir():
            sync(path)
    sync(directory)


def _sync_file(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _ship_container(opt: Path, source: Path, shown: str) -> list[str]:
    done = []
    for path in sorted(source.iterdir()):
        target = opt / CONTAINER / path.name
        if target.exists() and (path.name == WAKE or _same(path, target)):
            continue
        fresh = target.with_name(f"{path.name}.half")
        shutil.copy2(path, fresh)
        _sync_file(fresh)
        fresh.replace(target)
        done.append(f"wrote {shown}/{CONTAINER}/{path.name}")
    if done:
        sync(opt / CONTAINER)
    return done


def _same(one: Path, other: Path) -> bool:
    return one.stat().st_mode == other.stat().st_mode and one.read_bytes() == other.read_bytes()


def remove(host: Host, opt: str) -> list[str]:
    """Take the payload away; return what was done.

    Only what `ship` made: files that somebody else has put there stay. A running supervisor is no longer in any
    directory then, and runs on.
    """
    real = host.real(opt)
    done = []
    if (real / BUNDLE).is_symlink():
        (real / BUNDLE).unlink()
    for half in list(_halves(real)):
        _discard(half)
    for name in (VERSIONS, CONTAINER):
        if (real / name).is_dir():
            shutil.rmtree(real / name)
            done.append(f"removed {opt}/{name}")
    return done
