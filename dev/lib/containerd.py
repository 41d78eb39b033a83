"""Which containerd a node runs: Debian's own, or a newer one built from Go's module proxy."""

from __future__ import annotations

import logging
import os
import re
import shutil
import tempfile
from pathlib import Path
from typing import Optional

from dev.lib import host
from dev.lib.cache import Cache
from dev.lib.errors import DevError
from dev.lib.process import run

log = logging.getLogger("dev")

MODULE = "github.com/containerd/containerd/v2"

#: Variants that are not Debian's. The 2.3 line has NRI 0.12, whose args adjustment containers use.
VERSIONS = {"2.3": "v2.3.4"}

VARIANTS = ("debian", *VERSIONS)

PROGRAMS = ("containerd", "containerd-shim-runc-v2", "ctr")

RECIPE = "1"


def layer(cache: Cache, variant: str) -> Optional[Path]:
    """A layer with /usr/local/bin/containerd and friends; None for Debian's own."""
    if variant not in VARIANTS:
        raise DevError("no containerd variant %r; there are: %s" % (variant, ", ".join(VARIANTS)))
    if variant == "debian":
        return None
    version = VERSIONS[variant]
    inputs = [RECIPE, version, host.architecture()]
    return cache.artefact("containerd", inputs, lambda target: _build(cache, version, target))


def can_build() -> bool:
    """Whether Go is here; without it only Debian's containerd can be run.

    From 1.21 on it fetches the version that a module wants; an older one (Debian 12's) is as none.
    """
    if shutil.which("go") is None:
        return False
    told = re.search(r"go(\d+)\.(\d+)", run(["go", "version"]))
    return bool(told) and (int(told[1]), int(told[2])) >= (1, 21)


def _build(cache: Cache, version: str, target: Path) -> None:
    if not can_build():
        raise DevError("containerd %s is built from source and there is no Go in PATH; install "
                       "1.21 or newer (https://go.dev/dl) or use --containerd debian" % version)  # fmt: skip
    # GOFLAGS, proxies and caches are the host's own; the version's toolchain may be downloaded.
    env = dict(os.environ, CGO_ENABLED="0", GOTOOLCHAIN="auto", GOWORK="off")
    run(["go", "mod", "download", MODULE + "@" + version], env=env)
    source = run(["go", "list", "-m", "-f", "{{.Dir}}", MODULE + "@" + version], env=env).strip()
    with tempfile.TemporaryDirectory(prefix="zeropod-dev-", dir="/var/tmp") as scratch:
        # `go install module@version` refuses modules with replace directives; the module cache is
        # read-only and go may have to complete go.sum: build in a copy.
        tree = Path(scratch) / "containerd"
        run(["cp", "-r", source, tree])
        run(["chmod", "-R", "u+w", tree])
        (target / "usr/local/bin").mkdir(parents=True)
        flags = "-s -w -X %s/version.Version=%s" % (MODULE, version[1:])
        for program in PROGRAMS:
            run(["go", "build", "-mod=mod", "-trimpath", "-ldflags", flags,
                 "-o", target / "usr/local/bin" / program, "./cmd/" + program],
                cwd=tree, env=env)  # fmt: skip
