"""The compiled C programs: the supervisor that is PID 1 of managed containers, criu's zygote."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import List, Optional

from dev.lib import bundle, host, sandbox
from dev.lib.cache import Cache
from dev.lib.process import run

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

    def build(target: Path) -> None:
        (target / CONTAINER).mkdir(parents=True)
        (target / bundle.WHERE).mkdir(parents=True)
        script = (
            "cp -r /src/supervisor /tmp/build && cd /tmp/build && make -s clean && make -s build/zeropod-init && "
            "install -m 0755 build/zeropod-init /out/%s/init && install -m 0444 /dev/null /out/%s/wake && "
            "if [ -e criu-zygote.c ]; then make -s build/zygote.so && install build/zygote.so /out/%s/; fi"
        ) % (CONTAINER, CONTAINER, bundle.WHERE)
        run(sandbox.command([rootfs], ["sh", "-ec", script], binds={"/out": target},
                            readonly={"/src": host.REPOSITORY}))  # fmt: skip

    return cache.artefact("supervisor", [rootfs.name, *files], build)
