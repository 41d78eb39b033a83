"""Everything a node consists of, built or found in the cache."""

from __future__ import annotations

import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional

from dev.lib import apps, bundle, containerd, debian, host, images, kubernetes, rootfs, supervisor
from dev.lib.cache import Cache
from dev.lib.errors import DevError

log = logging.getLogger("dev")


@dataclass
class Environment:
    """The cache, the Debian tree and the layers above it."""

    cache: Cache
    rootfs: Path
    venv: Path
    criu: Path
    apps: Path
    project: Dict[str, Any]
    """The content of pyproject.toml."""

    supervisor: Optional[Path] = None

    @property
    def layers(self) -> List[Path]:
        """For an overlay mount, topmost first."""
        return [layer for layer in (self.supervisor, self.criu, self.venv, self.rootfs) if layer]

    def node_layers(self, variant: str) -> List[Path]:
        """The same with this containerd variant on top."""
        top = containerd.layer(self.cache, variant)
        return [top, *self.layers] if top else self.layers

    def cluster_layers(self, variant: str) -> List[Path]:
        """Those of a node with Kubernetes and without anything of ours."""
        top = containerd.layer(self.cache, variant)
        found = [kubernetes.layer(self.cache), top, self.rootfs]
        return [layer for layer in found if layer]

    def images(self) -> Path:
        """The directory of test images."""
        return images.archives(self.cache, self.rootfs)

    def app_images(self) -> Path:
        """The directory of those that are imported only when they are asked for."""
        return apps.archives(self.cache, self.rootfs, self.apps, self.venv)


def ensure(cache: Optional[Cache] = None) -> Environment:
    """Installs what the host lacks and builds what the cache lacks."""
    host.require_root()
    host.require_packages(*debian.TOOLS)
    cache = cache or Cache()
    # The bundle and the applications need nothing of the tree: they are made meanwhile.
    with ThreadPoolExecutor(2) as aside:
        criu = aside.submit(bundle.criu, cache)
        packages = aside.submit(apps.tree, cache, rootfs.SUITE)
        base = rootfs.base(cache)
        project = rootfs.project(base)
        return Environment(
            cache=cache,
            rootfs=base,
            venv=rootfs.venv(cache, base, project),
            criu=criu.result(),
            apps=packages.result(),
            supervisor=supervisor.layer(cache, base),
            project=project,
        )


def prefetch(cache: Cache, build: Callable[[Cache], object]) -> None:
    """Begins to build with Go while something else goes on; whoever needs it waits for it."""

    def work() -> None:
        try:
            build(cache)
        except DevError as error:
            # Whoever needs it tries again and reports.
            log.debug("%s", error)

    if containerd.can_build():
        threading.Thread(target=work, daemon=True).start()
