"""Runs programs of a Debian tree: in a sandbox, or right here where "/" is such a tree (Containerfile)."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Sequence

from dev.lib import host, sandbox
from dev.lib.cache import default_root
from dev.lib.process import run

#: Where pip finds what it has downloaded before.
CELLAR = "/root/.cache/pip"

QUIET = {"PIP_DISABLE_PIP_VERSION_CHECK": "1", "PYTHONDONTWRITEBYTECODE": "1"}


def inside(rootfs: Path, words: Sequence[str], *paths: Path, readonly: Sequence[Path] = ()) -> str:
    """Runs a program to its end; `paths` are where they are outside, the network is there.

    Raises:
        DevError: it failed.
    """
    if rootfs == Path("/"):
        return run(words, env=dict(os.environ, **QUIET))
    env, files = host.index_access()
    cellar = default_root() / "pip"
    cellar.mkdir(parents=True, exist_ok=True)
    shown = [Path(path) for path in [*files, "/etc/resolv.conf", "/etc/hosts"]]
    return run(sandbox.command(
        [rootfs], list(words), binds={CELLAR: cellar, **{str(path): path for path in paths}},
        readonly={str(path): path for path in [*shown, *readonly]}, env=dict(env, PIP_CACHE_DIR=CELLAR, **QUIET),
    ))  # fmt: skip
