"""CRIU as a relocatable bundle: the program, its loader and the libraries they need, no more.

Debian trixie's 4.1.1 cannot dump a TCP socket on kernels from about 6.16 on; 4.2.1 of the next
release can. Taken with its own loader and libraries it runs on any distribution.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import List

from dev.lib import debian, host
from dev.lib.cache import Cache, Input
from dev.lib.errors import DevError
from dev.lib.process import run

SUITE = "forky"

#: Below it established TCP connections cannot be dumped on new kernels.
AT_LEAST = (4, 2, 1)

RECIPE = "1"

WHERE = "opt/zeropod/criu"


def criu(cache: Cache) -> Path:
    """A layer with the bundle at /opt/zeropod/criu."""
    inputs: List[Input] = [RECIPE, SUITE, host.architecture(), Path(__file__)]
    return cache.artefact("criu", inputs, lambda layer: make(layer / WHERE))


def make(target: Path) -> None:
    """Fills a directory with `criu`, `ld.so` and `lib/`, from Debian's packages."""
    with debian.unpacked(SUITE, ["criu"]) as tree:
        collect(tree, target)


def collect(tree: Path, target: Path) -> None:
    """Takes criu with what it needs out of a Debian tree."""
    program = _first(tree, ["usr/sbin/criu", "usr/bin/criu"])
    loader = _first(tree, ["usr/lib64/ld-linux-x86-64.so.2", "lib64/ld-linux-x86-64.so.2",
                           "usr/lib/ld-linux-aarch64.so.1", "lib/ld-linux-aarch64.so.1"])  # fmt: skip
    (target / "lib").mkdir(parents=True)
    shutil.copy2(program, target / "criu")
    shutil.copy2(loader.resolve(), target / "ld.so")
    for library in _needed(tree, program, loader):
        shutil.copy2(library, target / "lib" / library.name)
    _check(target)


def _needed(tree: Path, program: Path, loader: Path) -> List[Path]:
    """The closure of shared libraries, as the tree's own loader resolves it."""
    folders = sorted({path.parent for path in tree.glob("usr/lib/*-linux-gnu/**/*.so.*")})
    search = ":".join(str(folder) for folder in folders)
    listing = run([loader, "--inhibit-cache", "--library-path", search, "--list", program])
    lost = re.findall(r"^\s*(\S+) => not found", listing, re.MULTILINE)
    if lost:
        raise DevError("criu's libraries are not in %s: %s" % (SUITE, ", ".join(lost)))
    return [Path(found) for found in re.findall(r"=> (/\S+) \(0x", listing)]


def _check(target: Path) -> None:
    said = run([target / "ld.so", "--inhibit-cache", "--library-path", target / "lib",
                target / "criu", "--version"])  # fmt: skip
    found = re.search(r"Version: (\d+)\.(\d+)(?:\.(\d+))?", said)
    if not found or tuple(int(part or 0) for part in found.groups()) < AT_LEAST:
        raise DevError("criu %s or newer is needed, %s has: %s"
                       % (".".join(map(str, AT_LEAST)), SUITE, said.strip()))  # fmt: skip


def _first(tree: Path, names: List[str]) -> Path:
    for name in names:
        if (tree / name).exists():
            return tree / name
    raise DevError("none of %s is in Debian %s's criu package" % (", ".join(names), SUITE))
