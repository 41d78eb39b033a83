"""Our manifests as kustomize and helm render them."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import yaml

FOLDER = Path(__file__).parents[2] / "manifests"
CHART = FOLDER / "helm/zeropod"
NAMESPACE = "zeropod-system"

NO_GO = "kustomize and helm are built from source and there is no Go on this machine"

needs_renderers = pytest.mark.skipif(
    not (shutil.which("kustomize") and shutil.which("helm")), reason=NO_GO
)

Object = dict[str, Any]
Objects = dict[tuple[str, str], Object]
"""By kind and name."""


def overlay(path: Path) -> Objects:
    """What `kubectl apply -k` would apply."""
    return _objects(_run("kustomize", "build", str(path)))


def composed(scratch: Path, resources: Iterable[str], components: Iterable[str] = ()) -> Objects:
    """The same of what a user writes: our directories by name, in a kustomization of their own."""
    # kustomize takes no absolute paths.
    here = scratch.resolve()
    up = os.path.relpath(FOLDER.resolve(), here) + "/"
    kustomization = {
        "resources": [up + name for name in resources],
        "components": [up + name for name in components],
    }
    (here / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
    return overlay(here)


def chart(*flags: str, **values: Any) -> Objects:
    """What `helm install` would apply."""
    words = [
        "helm",
        "template",
        "zeropod",
        str(CHART),
        "--namespace",
        NAMESPACE,
        "--kube-version",
        "1.35.0",
        "-f",
        "-",
    ]
    return _objects(_run(*words, *flags, stdin=yaml.safe_dump(values)))


def pod_spec(objects: Objects) -> Object:
    """That of the pods of a DaemonSet, of which there is one."""
    (found,) = [one for (kind, _), one in objects.items() if kind == "DaemonSet"]
    spec: Object = found["spec"]["template"]["spec"]
    return spec


def containers(objects: Objects) -> list[Object]:
    """All of the DaemonSet's pods."""
    spec = pod_spec(objects)
    return [*spec["initContainers"], *spec["containers"]]


def _objects(text: str) -> Objects:
    found = [one for one in yaml.safe_load_all(text) if one]
    by_name = {(one["kind"], one["metadata"]["name"]): one for one in found}
    assert len(by_name) == len(found), "two objects of one name"
    return by_name


def _run(*words: str, stdin: str = "") -> str:
    done = subprocess.run(words, input=stdin, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ValueError(done.stderr)
    return done.stdout
