"""Kubernetes, built from Go's module proxy: all its programs in one file, called by their names."""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import tempfile
from pathlib import Path
from typing import Dict, List, Union

from dev.lib import containerd, host
from dev.lib.cache import Cache, key_of
from dev.lib.errors import DevError
from dev.lib.process import run

log = logging.getLogger("dev")

#: Not every release is whole on the proxy: of some the staging modules are missing.
VERSION = "1.35.4"

MODULE = "k8s.io/kubernetes"

SOURCE = host.REPOSITORY / "dev/programs/kubernetes/main.go"

PROGRAMS = (
    "etcd",
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "kubelet",
    "kube-proxy",
    "kubectl",
)

#: Raise it when the recipe below changes in a way its texts do not show.
RECIPE = "1"

#: Why there is no cluster.
NO_GO = ("Kubernetes is built from source and there is no Go on this machine; "
         "install 1.21 or newer, which fetches the version it needs: https://go.dev/dl, or Debian 13's golang-go")  # fmt: skip


def layer(cache: Cache) -> Path:
    """A layer with the programs in /usr/local/bin; some five minutes, if Go has nothing of it in its own cache."""
    return cache.artefact("kubernetes", _inputs(), _build)


def can_have(cache: Cache) -> bool:
    """Whether it is there, or Go is, to build it."""
    return containerd.can_build() or (cache.root / "kubernetes" / key_of(_inputs())).is_dir()


def _inputs() -> List[Union[str, Path]]:
    return [RECIPE, VERSION, host.architecture(), *PROGRAMS, SOURCE]


def _build(target: Path) -> None:
    if not containerd.can_build():
        raise DevError(NO_GO)
    # Proxies and caches are the host's own; the toolchain that the release asks for may be downloaded. Whatever else
    # runs meanwhile goes first.
    flags = os.environ.get("GOFLAGS", "") + " -buildvcs=false -mod=mod -trimpath"
    env = dict(
        os.environ, CGO_ENABLED="0", GOTOOLCHAIN="auto", GOWORK="off", GOFLAGS=flags.strip()
    )
    with tempfile.TemporaryDirectory(prefix="zeropod-dev-", dir="/var/tmp") as scratch:
        tree = Path(scratch)
        told = run(
            ["go", "mod", "download", "-json", "%s@v%s" % (MODULE, VERSION)], env=env, cwd=tree
        )
        wanted = Path(json.loads(told)["GoMod"]).read_text(encoding="utf-8")
        (tree / "go.mod").write_text(wrapper(wanted, VERSION), encoding="utf-8")
        shutil.copy(SOURCE, tree)
        folder = target / "usr/local/bin"
        folder.mkdir(parents=True)
        run(["nice", "-n", "19", "go", "build", "-ldflags", _flags(), "-o", folder / PROGRAMS[0], "."],
            cwd=tree, env=env)  # fmt: skip
        for name in PROGRAMS[1:]:
            (folder / name).symlink_to(PROGRAMS[0])


def wrapper(wanted: str, version: str) -> str:
    """The go.mod of a module that can be built from a published release.

    Kubernetes names its staging modules at v0.0.0 and replaces them by folders that its module does not carry. Only
    a main module's replacements count: ours point to what was published (k8s.io/api v0.35.4 is of 1.35.4).

    Args:
        wanted: the release's own go.mod.
        version: the release.
    """
    staging = "v0." + version.partition(".")[2]
    lines = ["module kubernetes", "go " + re.findall(r"^go (\S+)", wanted, re.MULTILINE)[0],
             "require %s v%s" % (MODULE, version)]  # fmt: skip
    lines += ["replace %s => %s %s" % (name, name, staging)
              for name in re.findall(r"^\s*(?:replace )?(\S+) => \./staging/", wanted, re.MULTILINE)]  # fmt: skip
    # The versions that it was released with, so that nothing is resolved anew.
    for block in re.findall(r"^require \((.*?)^\)", wanted, re.MULTILINE | re.DOTALL):
        for name, pinned in re.findall(r"^\s+([^\s/]\S*) (v\S+)", block, re.MULTILINE):
            if pinned != "v0.0.0":
                lines.append("require %s %s" % (name, pinned))
    return "\n".join(lines) + "\n"


def _flags() -> str:
    """Where the programs take their version from."""
    major, minor = VERSION.split(".")[:2]
    words: List[str] = ["-s", "-w"]
    facts: Dict[str, str] = {
        "gitVersion": "v" + VERSION, "gitMajor": major, "gitMinor": minor, "gitTreeState": "clean"
    }  # fmt: skip
    for package in ("k8s.io/component-base/version", "k8s.io/client-go/pkg/version"):
        words += ["-X %s.%s=%s" % (package, name, value) for name, value in facts.items()]
    return " ".join(words)
