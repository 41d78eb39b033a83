"""kustomize and helm, built from Go's module proxy: what people render our manifests with."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Optional

from dev.lib import containerd, host
from dev.lib.cache import Cache
from dev.lib.process import run

#: Versions of which Go can install the program as it is: the module must replace nothing.
PROGRAMS = (
    "sigs.k8s.io/kustomize/kustomize/v5@v5.8.1",
    "helm.sh/helm/v3/cmd/helm@v3.19.0",
)


def layer(cache: Cache) -> Optional[Path]:
    """A layer with both in /usr/local/bin, less than a minute; None where there is no Go."""
    if not containerd.can_build():
        return None
    return cache.artefact("renderers", [host.architecture(), *PROGRAMS], _build)


def _build(target: Path) -> None:
    folder = target / "usr/local/bin"
    folder.mkdir(parents=True)
    flags = (os.environ.get("GOFLAGS", "") + " -buildvcs=false -trimpath").strip()
    env = dict(
        os.environ,
        CGO_ENABLED="0",
        GOTOOLCHAIN="auto",
        GOWORK="off",
        GOFLAGS=flags,
        GOBIN=str(folder),
    )
    for program in PROGRAMS:
        run(["nice", "go", "install", "-ldflags", "-s -w", program], env=env)
