"""Test images of programs that people run: Node.js, Go, PHP, Python servers, SSH, PostgreSQL.

They are large, so a node imports each one only when a test asks for it (tests/node/workloads.py).
Debian's packages are unpacked beside the node's own tree, none of their scripts is run; Python's
packages are those of the virtual environment, built for the same Python.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import Callable, Dict, List, Tuple

from dev.lib import containerd, debian, host, images, sandbox
from dev.lib.cache import Cache
from dev.lib.images import Layer
from dev.lib.process import run

PACKAGES = ["dropbear-bin", "nodejs", "pgbouncer", "php8.4-fpm", "postgresql-17"]

#: Raise it when the recipe below changes in a way its texts do not show.
RECIPE = "1"

#: Of the virtual environment: packages of PyPI that the image `servers` has, with what they import.
PYTHON = ("grpc", "typing_extensions.py", "uvloop", "websockets")

#: As in the image of its makers: in the foreground, its workers on port 9000 with the container's environment. But they
#: stay root: where CAP_SYS_RESOURCE is missing, as it may be here, criu cannot dump processes of anybody else.
PHP = """\
[global]
daemonize = no
error_log = /proc/self/fd/2
[www]
user = root
group = root
listen = 9000
clear_env = no
catch_workers_output = yes
pm = dynamic
pm.max_children = 5
pm.start_servers = 2
pm.min_spare_servers = 1
pm.max_spare_servers = 3
"""

GO = images.PROGRAMS / "static"

Recipe = Tuple[List[bytes], List[str], str]
"""Layers above busybox, the command, the working directory."""


def tree(cache: Cache, suite: str) -> Path:
    """The packages' files; made in ten seconds, while others are built."""

    def build(target: Path) -> None:
        with debian.unpacked(suite, PACKAGES) as whole:
            # The compiler of PostgreSQL's JIT: 160 MB that no test uses.
            for path in whole.glob("usr/lib/*/lib*"):
                if path.name.startswith(("libLLVM", "libz3")):
                    path.unlink()
            for folder in ("doc", "i18n", "locale", "man", "perl"):
                shutil.rmtree(whole / "usr/share" / folder, ignore_errors=True)
            run(["cp", "-a", whole / "usr", target])

    return cache.artefact("apps", [RECIPE, suite, host.architecture(), *PACKAGES], build)


def archives(cache: Cache, rootfs: Path, apps: Path, venv: Path) -> Path:
    """A directory of OCI archives, as `images.archives`; those that cannot be made here are not in it."""

    def build(target: Path) -> None:
        base = images.base(rootfs)
        recipes: Dict[str, Callable[[], Recipe]] = {
            "node": lambda: ([_node(apps)], ["node"], "/"),
            "ssh": lambda: ([_ssh(apps)], ["dropbear"], "/"),
            "postgres": lambda: ([_postgres(apps)], ["postgres"], "/data"),
            "pgbouncer": lambda: ([_pgbouncer(apps)], ["pgbouncer"], "/data"),
            "php": lambda: ([_php(apps)], ["php-fpm8.4", "-R"], "/var/www/html"),
            "servers": lambda: ([images.python(rootfs), _servers(rootfs, venv)], ["python3"], "/"),
        }  # fmt: skip
        if containerd.can_build():
            recipes["static"] = lambda: ([_static(rootfs)], ["static"], "/")
        for name, recipe in recipes.items():
            layers, command, cwd = recipe()
            images.write(target, name, [base, *layers], command, cwd)

    inputs = [RECIPE, rootfs.name, apps.name, venv.name, str(containerd.can_build()), Path(__file__),
              Path(images.__file__), *sorted(GO.iterdir())]  # fmt: skip
    return cache.artefact("app-images", inputs, build)


def _node(apps: Path) -> bytes:
    layer = Layer(apps)
    layer.programs(["/usr/bin/node"])
    # Debian keeps some of its built-in modules there.
    layer.copy("/usr/share/nodejs")
    return layer.bytes()


def _pgbouncer(apps: Path) -> bytes:
    layer = Layer(apps)
    layer.programs(["/usr/sbin/pgbouncer"])
    return layer.bytes()


def _php(apps: Path) -> bytes:
    layer = Layer(apps)
    layer.programs(["/usr/sbin/php-fpm8.4"])
    layer.file("etc/php/8.4/fpm/php-fpm.conf", PHP.encode())
    layer.folder("var/www/html")
    return layer.bytes()


def _ssh(apps: Path) -> bytes:
    layer = Layer(apps)
    layer.programs(["/usr/sbin/dropbear", "/usr/bin/dbclient", "/usr/bin/dropbearkey"])
    layer.folder("etc/dropbear")
    return layer.bytes()


def _postgres(apps: Path) -> bytes:
    layer = Layer(apps)
    home = "/usr/lib/postgresql/17"
    programs = [home + "/bin/" + name for name in ("initdb", "pg_isready", "postgres", "psql")]
    layer.programs(programs)
    for path in (home + "/lib", "/usr/share/postgresql/17"):
        layer.copy(path)
    for name in programs:
        layer.link("usr/local/bin/" + os.path.basename(name), name)
    return layer.bytes()


def _servers(rootfs: Path, venv: Path) -> bytes:
    layer = Layer(rootfs)
    (packages,) = venv.glob("opt/zeropod/venv/lib/python3.*/site-packages")
    for name in PYTHON:
        layer.tree(packages / name, "/usr/lib/python3/dist-packages/" + name)
    # Wheels bring most of what they need; the rest is the tree's.
    folder = "/" + str(packages.relative_to(venv))
    script = 'find "$@" -name "*.so" -exec ldd {} + | grep -o "=> /[^ ]*" | grep -v site-packages | sort -u'
    listing = run(sandbox.command([venv, rootfs], ["sh", "-ec", script, "sh",
                                                   *(folder + "/" + name for name in PYTHON)]))  # fmt: skip
    for path in listing.replace("=>", "").split():
        layer.copy(path)
    return layer.bytes()


def _static(rootfs: Path) -> bytes:
    """A static file server as everybody writes it in Go."""
    layer = Layer(rootfs)
    with tempfile.TemporaryDirectory(prefix="zeropod-dev-", dir="/var/tmp") as scratch:
        program = Path(scratch) / "static"
        run(["go", "build", "-trimpath", "-ldflags", "-s -w", "-o", program, "."], cwd=GO,
            env=dict(os.environ, CGO_ENABLED="0", GOWORK="off"))  # fmt: skip
        layer.file("usr/local/bin/static", program.read_bytes(), 0o755)
    return layer.bytes()
