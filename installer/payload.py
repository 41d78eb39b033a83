"""The files that a node needs: the supervisor that containers see, and criu for the daemon.

criu's bundle is a directory by version with a link to it, so that a daemon which runs finds all of one version. The
directory that containers see is mounted in them: it stays the same for ever, its files are replaced one by one, and the
file that is opened to be woken is never replaced, because the daemon watches that very file.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path

from installer.errors import InstallError
from installer.host import Host

OPT = "/opt/zeropod"
BUNDLE, CONTAINER, WAKE = "criu", "container", "wake"
KEPT = 2  # versions of the bundle: a daemon of the last one may still run


def ship(host: Host, source: Path) -> list[str]:
    """Bring the payload to the node; return what was done, for people.

    Args:
        host: The node.
        source: Directory with `criu/` and `container/`.

    Raises:
        InstallError: it is not whole, or cannot be written.
    """
    if not (source / BUNDLE).is_dir() or not (source / CONTAINER).is_dir():
        raise InstallError(
            f"{source} has no {BUNDLE}/ and {CONTAINER}/", "use the image as it was built"
        )
    opt = host.real(OPT)
    try:
        (opt / CONTAINER).mkdir(mode=0o755, parents=True, exist_ok=True)
        return _ship_bundle(opt, source / BUNDLE) + _ship_container(opt, source / CONTAINER)
    except OSError as error:
        raise InstallError(
            f"{error.filename or OPT} cannot be written ({error.strerror})",
            "mount the node's /opt/zeropod writable and give it 20 MB",
        ) from error


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


def _ship_bundle(opt: Path, source: Path) -> list[str]:
    name = digest(source)
    versions, link = opt / "versions", opt / BUNDLE
    target = versions / name
    done = []
    if not target.is_dir():
        versions.mkdir(mode=0o755, exist_ok=True)
        half = versions / f".{name}.{os.getpid()}"
        shutil.rmtree(half, ignore_errors=True)
        shutil.copytree(source, half, symlinks=True)
        half.rename(target)
        done.append(f"wrote criu to {OPT}/versions/{name}")
    if not link.is_symlink() or os.readlink(link) != f"versions/{name}":
        if link.is_dir() and not link.is_symlink():
            raise InstallError(f"{OPT}/{BUNDLE} is a directory", "move it away: it is not ours")
        fresh = opt / f".{BUNDLE}.{os.getpid()}"
        fresh.unlink(missing_ok=True)
        fresh.symlink_to(f"versions/{name}")
        fresh.replace(link)
        done.append(f"made {OPT}/{BUNDLE} point to it")
    for old in _older(versions, keep=name):
        shutil.rmtree(old, ignore_errors=True)
        done.append(f"removed the older {OPT}/versions/{old.name}")
    return done


def _older(versions: Path, keep: str) -> list[Path]:
    others = [path for path in versions.iterdir() if path.name != keep]
    others.sort(key=lambda path: path.lstat().st_mtime, reverse=True)
    return others[KEPT - 1 :]


def _ship_container(opt: Path, source: Path) -> list[str]:
    done = []
    for path in sorted(source.iterdir()):
        target = opt / CONTAINER / path.name
        if target.exists() and (path.name == WAKE or _same(path, target)):
            continue
        fresh = target.with_name(f".{path.name}.{os.getpid()}")
        shutil.copy2(path, fresh)
        fresh.replace(target)
        done.append(f"wrote {OPT}/{CONTAINER}/{path.name}")
    return done


def _same(one: Path, other: Path) -> bool:
    return one.stat().st_mode == other.stat().st_mode and one.read_bytes() == other.read_bytes()


def remove(host: Host) -> list[str]:
    """Take the payload away; return what was done.

    Only what `ship` made: files that somebody else has put there stay. A running supervisor is no longer in any
    directory then, and runs on.
    """
    opt = host.real(OPT)
    done = []
    if (opt / BUNDLE).is_symlink():
        (opt / BUNDLE).unlink()
    for name in ("versions", CONTAINER):
        if (opt / name).is_dir():
            shutil.rmtree(opt / name)
            done.append(f"removed {OPT}/{name}")
    if opt.is_dir() and not any(opt.iterdir()):
        opt.rmdir()
        done.append(f"removed {OPT}")
    return done
