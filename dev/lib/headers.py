"""The kernel headers that bcc's compiler needs for programs which use user-space structures only.

Debian's header packages have 90 MB in two halves. What is reached from the few files that bcc includes
by itself and from those that our programs include is a hundredth of it; which kernel it is does not matter.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Dict, Iterable, List, Set

from dev.lib.errors import DevError

#: What bcc includes before our programs (src/cc/export/helpers.h, src/cc/frontends/clang/kbuild_helper.cc).
BCC = ("linux/kconfig.h", "linux/version.h", "linux/log2.h", "asm/page.h", "linux/types.h", "linux/bpf_common.h",
       "uapi/linux/bpf.h", "uapi/linux/if_packet.h", "uapi/linux/if_ether.h", "uapi/linux/ptrace.h")  # fmt: skip

INCLUDE = re.compile(r'^\s*#\s*include\s*["<]([^">]+)[">]', re.MULTILINE)

#: Debian's names of architectures, and the kernel's.
ARCHITECTURES = {"amd64": "x86", "arm64": "arm64"}


def reached(halves: Iterable[Path], architecture: str, sources: Iterable[Path]) -> Dict[str, Path]:
    """All files that can be reached, whatever the configuration says: by their paths in one tree.

    Args:
        halves: the directories of the packages; the first that has a file wins.
        architecture: Debian's name of it.
        sources: our programs.

    Raises:
        DevError: one of those that bcc includes is not there.
    """
    halves = list(halves)
    search = _search(ARCHITECTURES[architecture])
    found: Dict[str, Path] = {}
    pending: List[str] = []

    def want(name: str, beside: str = "") -> bool:
        for folder in ([beside] if beside else []) + search:
            path = folder + "/" + name
            if ".." in path.split("/"):
                continue
            if path in found:
                return True
            for half in halves:
                if (half / path).is_file():
                    found[path] = half / path
                    pending.append(path)
                    return True
        return False

    missing = [name for name in BCC if not want(name)]
    if missing:
        raise DevError("no %s in %s" % (", ".join(missing), " and ".join(map(str, halves))))
    for source in sources:
        for name in _includes(source):
            want(name)
    while pending:
        path = pending.pop()
        for name in _includes(found[path]):
            want(name, beside=path.rpartition("/")[0])
    return found


def collect(rootfs: Path, architecture: str, sources: Iterable[Path], target: Path) -> None:
    """Copies those of the newest kernel in a Debian tree to `target`, a tree as BCC_KERNEL_SOURCE names one."""
    commons = sorted((rootfs / "usr/src").glob("linux-headers-*-common"))
    if not commons:
        raise DevError("no kernel headers in %s/usr/src" % rootfs)
    common = commons[-1]
    special = common.with_name(common.name[: -len("common")] + architecture)
    for path, source in sorted(reached([special, common], architecture, sources).items()):
        (target / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target / path)


def _search(kernel: str) -> List[str]:
    """Where bcc's compiler looks, in its order."""
    arch = "arch/%s/include" % kernel
    return [arch, arch + "/generated/uapi", arch + "/generated", "include", arch + "/uapi", arch + "/generated/uapi",
            "include/uapi", "include/generated/uapi"]  # fmt: skip


def _includes(path: Path) -> "Set[str]":
    return set(INCLUDE.findall(path.read_text(encoding="utf-8", errors="replace")))
