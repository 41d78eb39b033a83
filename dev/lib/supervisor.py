"""The compiled C programs: the supervisor that is PID 1 of managed containers, criu's zygote."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import List, Optional

from dev.lib import bundle, host
from dev.lib.cache import Cache
from dev.lib.inside import inside

log = logging.getLogger("dev")

CONTAINER = "opt/zeropod/container"


def sources() -> List[Path]:
    """What is compiled; empty before there is anything."""
    folder = host.REPOSITORY / "supervisor"
    return sorted(p for p in folder.glob("*") if p.suffix in (".c", ".h") or p.name == "Makefile")


def layer(cache: Cache, rootfs: Path) -> Optional[Path]:
    """A layer with the supervisor, its `wake` file, and the zygote beside criu."""
    files = sources()
    if not any(path.name == "Makefile" for path in files):
        log.info("no supervisor/Makefile: a node without supervisor")
        return None

    return cache.artefact("supervisor", [rootfs.name, *files], lambda target: make(rootfs, target))


def make(rootfs: Path, target: Path) -> None:
    """Compiles with the tree's compiler; the tree may be "/" itself."""
    (target / CONTAINER).mkdir(parents=True)
    (target / bundle.WHERE).mkdir(parents=True)
    script = (
        "build=$(mktemp -d) && cp -r %s/supervisor $build && cd $build/supervisor && make -s clean && "
        "make -s build/zeropod-init && "
        "install -m 0755 build/zeropod-init $1/%s/init && install -m 0444 /dev/null $1/%s/wake && "
        "if [ -e criu-zygote.c ]; then make -s build/zygote.so && install build/zygote.so $1/%s/; fi; "
        "rm -rf $build"
    ) % (host.REPOSITORY, CONTAINER, CONTAINER, bundle.WHERE)
    inside(rootfs, ["sh", "-ec", script, "sh", str(target)], target, readonly=[host.REPOSITORY])
