"""Images as OCI archives, as `ctr images import` and `kind load image-archive` read them.

Owners and times in a layer are fixed and its entries sorted: the same files give the same digest. Layers are not
compressed, since two versions of zlib need not agree on the bytes.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import stat
import tarfile
from pathlib import Path
from typing import Dict, List, Mapping, Optional, Sequence, Union

MEDIA = "application/vnd.oci.image."

Layer = Union[bytes, Path]
"""A tar archive: itself, or the file that it is in."""


def write(
    archive: Path,
    name: str,
    layers: Sequence[Layer],
    config: Mapping[str, object],
    *,
    architecture: str,
    created: Optional[str] = None,
) -> str:
    """Writes one image as an OCI archive.

    Args:
        archive: the file; it appears when it is complete.
        name: of the image, with its tag.
        layers: lowest first.
        config: what the image says of itself: Env, Cmd, ...
        architecture: Debian's and Go's name of it.
        created: an RFC 3339 time, if it shall have one.

    Returns:
        The digest of its manifest.
    """
    blobs: Dict[str, Layer] = {}

    def blob(kind: str, data: Layer, **more: object) -> Dict[str, object]:
        digest, size = _measure(data)
        blobs[digest] = data
        return {"mediaType": MEDIA + kind, "digest": "sha256:" + digest, "size": size, **more}

    stack = [blob("layer.v1.tar", data) for data in layers]
    described: Dict[str, object] = {
        "architecture": architecture,
        "os": "linux",
        "config": config,
        "rootfs": {"type": "layers", "diff_ids": [entry["digest"] for entry in stack]},
    }
    if created:
        described["created"] = created
    manifest = {
        "schemaVersion": 2,
        "mediaType": MEDIA + "manifest.v1+json",
        "config": blob("config.v1+json", _json(described)),
        "layers": stack,
    }
    label = {
        "io.containerd.image.name": name,
        "org.opencontainers.image.ref.name": name.rpartition(":")[2],
    }
    entry = blob("manifest.v1+json", _json(manifest), annotations=label)
    fresh = archive.with_name(archive.name + ".new")
    with tarfile.open(fresh, "w") as tar:
        _add(tar, "oci-layout", b'{"imageLayoutVersion": "1.0.0"}')
        _add(tar, "index.json", _json({"schemaVersion": 2, "manifests": [entry]}))
        for digest, data in sorted(blobs.items()):
            _add(tar, "blobs/sha256/" + digest, data)
    fresh.replace(archive)
    return str(entry["digest"])


def pack(tree: Path, target: Path, *, time: int = 0) -> None:
    """Writes a layer with all that is below `tree`, everything root's and from `time` (seconds)."""
    with tarfile.open(target, "w", format=tarfile.PAX_FORMAT) as tar:
        for path in sorted(_walk(tree), key=lambda path: path.relative_to(tree).parts):
            info = tarfile.TarInfo(str(path.relative_to(tree)))
            found = path.lstat()
            info.mode, info.mtime = stat.S_IMODE(found.st_mode), time
            if stat.S_ISLNK(found.st_mode):
                info.type, info.linkname = tarfile.SYMTYPE, os.readlink(path)
                tar.addfile(info)
            elif stat.S_ISDIR(found.st_mode):
                info.type = tarfile.DIRTYPE
                tar.addfile(info)
            else:
                info.size = found.st_size
                with path.open("rb") as data:
                    tar.addfile(info, data)


def _walk(tree: Path) -> List[Path]:
    found = []
    for folder, directories, files in os.walk(tree):
        found += [Path(folder, name) for name in [*directories, *files]]
    return found


def _measure(data: Layer) -> "tuple[str, int]":
    if isinstance(data, bytes):
        return hashlib.sha256(data).hexdigest(), len(data)
    digest = hashlib.sha256()
    with data.open("rb") as stream:
        while piece := stream.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest(), data.stat().st_size


def _add(tar: tarfile.TarFile, name: str, data: Layer) -> None:
    info = tarfile.TarInfo(name)
    if isinstance(data, bytes):
        info.size = len(data)
        tar.addfile(info, io.BytesIO(data))
        return
    info.size = data.stat().st_size
    with data.open("rb") as stream:
        tar.addfile(info, stream)


def _json(value: object) -> bytes:
    return json.dumps(value, sort_keys=True).encode()
