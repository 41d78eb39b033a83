"""The product's image as an archive: its layers, found in the cache or made, and what is in them."""

from __future__ import annotations

import os
import re
import tarfile
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Callable, Dict, List, Sequence, Tuple

from dev.lib import headers, host, images, inside, oci, product
from dev.lib.bundle import WHERE
from dev.lib.cache import Cache
from dev.lib.environment import Environment

NAME = "localhost/zeropod:dev"

LAYER = "layer.tar"


@dataclass(frozen=True)
class Layers:
    """Three layers, lowest first. The upper one is small, and is all that changes with our code."""

    debian: Path
    pypi: Path
    product: Path

    def all(self) -> List[Tuple[str, Path]]:
        """Each with its name."""
        return [("debian", self.debian), ("pypi", self.pypi), ("zeropod", self.product)]


def write(environment: Environment, output: Path) -> str:
    """Writes the image as an OCI archive; returns the digest of its manifest."""
    with tempfile.TemporaryDirectory(prefix="zeropod-dev-", dir="/var/tmp") as scratch:
        stack = layers(environment, Path(scratch))
        stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(epoch()))
        output.parent.mkdir(parents=True, exist_ok=True)
        return oci.write(output, NAME, [path for _, path in stack.all()], config(environment),
                         architecture=host.architecture(), created=stamp)  # fmt: skip


def config(environment: Environment) -> Dict[str, object]:
    """What the image says of itself."""
    project = environment.project["project"]
    labels = {
        "org.opencontainers.image.title": project["name"],
        "org.opencontainers.image.description": project["description"],
        "org.opencontainers.image.version": project["version"],
        "org.opencontainers.image.licenses": project["license"],
    }
    return dict(product.CONFIG, Labels=labels)


def epoch() -> int:
    """The time of everything in the image: SOURCE_DATE_EPOCH, or the beginning of time."""
    return int(os.environ.get("SOURCE_DATE_EPOCH", "0"))


def layers(environment: Environment, scratch: Path) -> Layers:
    """Finds or makes all layers; the uppermost is made in `scratch`."""
    cache, rootfs, project = environment.cache, environment.rootfs, environment.project
    sources = sorted((host.REPOSITORY / "bpf").glob("*.[ch]"))
    recipe = [*map(_file, (headers, images, inside, oci, product)), str(epoch()), rootfs.name]

    def pypi(target: Path) -> None:
        (target / "tools").mkdir()
        _packed(target, lambda tree: product.dependencies(rootfs, project, tree, target / "tools"))

    debian = _layer(cache, "image-debian", [*recipe, *_included(sources)],
                    lambda tree: product.base(rootfs, tree, sources))  # fmt: skip
    python = cache.artefact("image-pypi", [*recipe, *product.requirements(project)], pypi)
    own = scratch / "zeropod"
    own.mkdir()
    _packed(own, lambda tree: product.product(rootfs, project, python / "tools",
                                              environment.criu / WHERE, tree))  # fmt: skip
    return Layers(debian, python / LAYER, own / LAYER)


def listing(stack: Layers) -> List[str]:
    """Lines for people: what is in the image, how large, in what version."""
    lines = []
    for name, path in stack.all():
        sizes, versions = _content(path)
        lines.append("%-48s %8.1f MB" % ("layer " + name, sum(sizes.values()) / 1e6))
        for part, size in sorted(sizes.items(), key=lambda item: -item[1]):
            lines.append("  %-46s %8.1f" % (part, size / 1e6))
        lines += ["  %-46s %s" % item for item in sorted(versions.items())]
    return lines


def _content(path: Path) -> Tuple[Dict[str, int], Dict[str, str]]:
    """Bytes by what they belong to, and the versions of packages."""
    sizes: Dict[str, int] = {}
    versions: Dict[str, str] = {}
    with tarfile.open(path) as tar:
        for member in tar:
            if not member.isfile():
                continue
            part = _part(member.name)
            sizes[part] = sizes.get(part, 0) + member.size
            if re.search(r"\.dist-info/METADATA$|^var/lib/dpkg/status\.d/", member.name):
                stream = tar.extractfile(member)
                text = stream.read().decode() if stream else ""
                found = dict(re.findall(r"^(Name|Package|Version): (.*)$", text, re.MULTILINE))
                name = found.get("Name") or found["Package"]
                prefix = "python: " if "Name" in found else "debian: "
                versions[prefix + name] = found["Version"]
    return sizes, versions


def _part(name: str) -> str:
    for pattern, part in (
        (r"usr/lib/zeropod/linux/", "kernel headers"),
        (r"opt/zeropod/(\w+)/", r"payload: \1"),
        (r"usr/lib/[^/]*-linux-gnu/lib(?:LLVM|clang|z3)", "compiler of bcc"),
        (r"usr/lib/python3(?:\.\d+)?/", "Python's library, bcc, pycriu"),
        (
            r"usr/local/lib/python[\d.]+/dist-packages/([^/]+?)(?:-[^/]*\.dist-info)?(?:\.py|\.libs)?/",
            r"\1",
        ),
        (r"usr/lib/", "libraries"),
        (r"usr/(?:local/)?s?bin/", "programs"),
        (r"usr/share/doc/", "licences"),
    ):
        found = re.match(pattern, name)
        if found:
            return found.expand(part)
    return "other"


def _layer(
    cache: Cache, name: str, inputs: Sequence[object], fill: Callable[[Path], None]
) -> Path:
    return cache.artefact(name, inputs, lambda target: _packed(target, fill)) / LAYER  # type: ignore[arg-type]


def _packed(folder: Path, fill: Callable[[Path], None]) -> None:
    """Fills a tree, makes a layer of it and removes it."""
    with tempfile.TemporaryDirectory(prefix="tree-", dir=folder) as scratch:
        tree = Path(scratch) / "tree"
        tree.mkdir()
        fill(tree)
        oci.pack(tree, folder / LAYER, time=epoch())


def _included(sources: Sequence[Path]) -> List[str]:
    """What the programs include: all that the headers depend on."""
    found = set()
    for source in sources:
        found |= set(headers.INCLUDE.findall(source.read_text(encoding="utf-8")))
    return sorted(found)


def _file(module: ModuleType) -> Path:
    return Path(str(module.__file__))
