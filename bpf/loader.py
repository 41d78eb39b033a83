"""Compile, load and pin the programs: `python3 -m bpf.loader ROOT`, then exit.

A process of its own because bcc brings a compiler along (160 MB, 1.3 s). It runs once per build of
the sources; the daemon only opens what is pinned.
"""

from __future__ import annotations

import contextlib
import logging
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bpf import maps, pins, syscall
from bpf.errors import BpfError, LayoutError, ToolchainError

log = logging.getLogger(__name__)


def _bcc() -> Any:
    try:
        import bcc  # noqa: PLC0415 - Debian only, and only here
    except ImportError as error:
        message = "bcc is missing: apt-get install python3-bpfcc"
        raise ToolchainError(message) from error
    return bcc


def merge(target: Path, *trees: Path) -> None:
    """Make `target` the union of `trees` by symlinks; the first tree wins."""
    target.mkdir()
    names = sorted({entry.name for tree in trees for entry in tree.iterdir()})
    for name in names:
        found = [tree / name for tree in trees if (tree / name).exists()]
        if len(found) > 1 and all(path.is_dir() for path in found):
            merge(target / name, *found)
        else:
            (target / name).symlink_to(found[0])


@contextlib.contextmanager
def header_tree() -> Iterator[None]:
    """Point bcc at kernel headers, any version: the programs use uapi structs only.

    bcc looks for /lib/modules/RELEASE/build of the running kernel or BCC_KERNEL_SOURCE, and for the
    latter wants one tree. Debian splits it in an architecture's and a common half, so both are
    merged for the time of the compilation.

    Raises:
        ToolchainError: no header tree is installed.
    """
    release = Path("/lib/modules", platform.release(), "build")
    if "BCC_KERNEL_SOURCE" in os.environ or release.is_dir():
        yield
        return
    for common in sorted(Path("/usr/src").glob("linux-headers-*-common"), reverse=True):
        version = common.name.removesuffix("-common")
        for half in sorted(Path("/usr/src").glob(f"{version}-*")):
            if not (half / "include/generated").is_dir():
                continue
            scratch = Path(tempfile.mkdtemp(prefix="zeropod-headers-"))
            try:
                merge(scratch / "tree", half, common)
                os.environ["BCC_KERNEL_SOURCE"] = str(scratch / "tree")
                yield
            finally:
                os.environ.pop("BCC_KERNEL_SOURCE", None)
                shutil.rmtree(scratch)
            return
    message = "no kernel headers in /usr/src: apt-get install linux-headers-generic or -amd64"
    raise ToolchainError(message)


def _check_sizes(module: Any) -> None:
    """Compare the compiler's idea of every map with ours, before anybody writes to it."""
    for layout in maps.LAYOUTS:
        info = syscall.bpf_map_info(module[layout.name].map_fd)
        ours = (layout.key.size, layout.value.size)
        if (info.key_size, info.value_size) != ours:
            message = (
                f"map {layout.name}: C has {info.key_size}, {info.value_size} bytes, Python {ours}"
            )
            raise LayoutError(message)


def load(root: Path) -> None:
    """Compile the sources and pin maps and programs below `root`, which is in a bpf file system.

    Programs appear all at once: their directory is renamed into place when it is complete.

    Raises:
        ToolchainError: bcc or the kernel headers are missing.
        BpfError: the compiler or the verifier refused; its words are on standard error.
        LayoutError: a struct and its packing differ.
    """
    bcc = _bcc()
    where = pins.Pins(root)
    where.maps.mkdir(parents=True, exist_ok=True, mode=0o700)
    flags = [f"-I{pins.SOURCES}", f'-DMAPS="{where.maps}"', "-Wno-unused-function"]
    with header_tree():
        try:
            module = bcc.BPF(src_file=os.fsencode(pins.SOURCES / "datapath.c"), cflags=flags)
            functions = {
                name: module.load_func(name, kind) for name, kind in pins.PROGRAMS.items()
            }
        except Exception as error:  # bcc raises bare Exception
            message = f"cannot compile or load the datapath: {error}"
            raise BpfError(message) from error
    _check_sizes(module)
    scratch = root / f"new-{os.getpid()}"
    scratch.mkdir(mode=0o700)
    for name, function in functions.items():
        syscall.bpf_obj_pin(function.fd, str(scratch / name))
    scratch.rename(where.programs)


def main() -> int:
    """Load for `sys.argv[1]`; 0 when the pins are there."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    try:
        load(Path(sys.argv[1]))
    except BpfError as error:
        log.error("%s", error)  # noqa: TRY400 - the reader needs the reason, not a traceback
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
