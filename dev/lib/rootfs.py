"""The Debian tree that is the node's root, and the Python environment on top of it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, Dict, List

from dev.lib import host, sandbox
from dev.lib.cache import Cache
from dev.lib.process import run

SUITE = "trixie"

#: Raise it when the recipe below changes in a way its texts do not show.
RECIPE = "1"

PACKAGES = [
    # the node
    "ca-certificates", "containerd", "containernetworking-plugins", "iproute2", "iptables",
    "kmod", "nftables", "openssl", "procps", "runc", "util-linux",
    # the product: bcc and pycriu are not on PyPI; bcc compiles against a header tree
    "python3", "python3-bpfcc", "python3-pycriu", "python3-venv",
    # what is compiled here: the supervisor, the test programs
    "gcc", "libc6-dev", "make",
    # what the test images are made of
    "busybox-static", "nginx-light", "redis-server", "redis-tools",
    # to look around with
    "curl", "libcap2-bin", "psmisc", "socat", "strace", "tcpdump",
]  # fmt: skip

VENV = "/opt/zeropod/venv"


def base(cache: Cache) -> Path:
    """The Debian tree, made by mmdebstrap (about a minute)."""
    packages = [*PACKAGES, "linux-headers-" + host.architecture()]

    def build(target: Path) -> None:
        run(["mmdebstrap", "--mode=root", "--variant=minbase", "--quiet",
             "--include=" + ",".join(packages), SUITE, target, host.mirror()])  # fmt: skip
        # A resolver of the build machine must not live on in the tree.
        (target / "etc/resolv.conf").unlink()
        (target / "etc/resolv.conf").touch()
        shutil.rmtree(target / "var/cache/apt", ignore_errors=True)
        for folder in ("src", "opt/zeropod", "opt/criu", "var/lib/zeropod"):
            (target / folder).mkdir(parents=True, exist_ok=True)

    return cache.artefact("rootfs", [RECIPE, SUITE, host.architecture(), *packages], build)


def venv(cache: Cache, rootfs: Path, data: Dict[str, Any]) -> Path:
    """A layer with the virtual environment: what pyproject.toml names, and Debian's bcc, pycriu."""
    wanted = requirements(data)
    env, files = host.index_access()
    cellar = cache.root / "pip"
    cellar.mkdir(exist_ok=True)

    def build(layer: Path) -> None:
        (layer / VENV[1:]).mkdir(parents=True)
        readonly = {path: Path(path) for path in files}
        readonly.update(
            {"/etc/resolv.conf": Path("/etc/resolv.conf"), "/etc/hosts": Path("/etc/hosts")}
        )
        script = "python3 -m venv --system-site-packages %s && %s/bin/pip install -q %s" % (
            VENV, VENV, '"$@"')  # fmt: skip
        run(sandbox.command(
            [rootfs], ["sh", "-ec", script, "sh", *wanted],
            binds={VENV: layer / VENV[1:], "/root/.cache/pip": cellar}, readonly=readonly,
            env=dict(env, PIP_CACHE_DIR="/root/.cache/pip", PIP_DISABLE_PIP_VERSION_CHECK="1"),
        ))  # fmt: skip

    return cache.artefact("venv", [rootfs.name, *wanted], build)


def requirements(data: Dict[str, Any]) -> List[str]:
    """What pyproject.toml wants from PyPI, all dependency groups together."""
    wanted = set(data["project"].get("dependencies", []))
    for group in data.get("dependency-groups", {}).values():
        # An include-group entry is a table; the group it names is in the union anyway.
        wanted.update(item for item in group if isinstance(item, str))
    return sorted(wanted)


def project(rootfs: Path) -> Dict[str, Any]:
    """pyproject.toml, read by the tree's Python: the host's may be older than tomllib (3.11)."""
    text = (host.REPOSITORY / "pyproject.toml").read_text(encoding="utf-8")
    script = "import json, sys, tomllib; print(json.dumps(tomllib.loads(sys.stdin.read())))"
    data = json.loads(run(["chroot", rootfs, "python3", "-Ic", script], stdin=text))
    return dict(data)
