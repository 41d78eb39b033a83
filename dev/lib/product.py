"""The product's image: installer, plugin and daemon with what they run on, and nothing else.

Its files are those of Debian packages, one by one: Python, bcc with its compiler, pycriu, a shell and the few programs
that are run, each with the shared libraries it needs. Above them are the packages of PyPI, then our own wheel and what
the installer brings to a node. Whoever looks for vulnerabilities finds the packages in /var/lib/dpkg/status.d, as in
the images of distroless.

Everything here works on a Debian tree in the cache, or on "/" where that is such a tree (Containerfile).
"""

from __future__ import annotations

import configparser
import os
import posixpath
import re
import shutil
import tempfile
import zipfile
from pathlib import Path
from typing import Any, Dict, List, Sequence, Set

from dev.lib import bundle, headers, host, images, supervisor
from dev.lib.errors import DevError
from dev.lib.inside import inside

#: A shell, what the daemon runs to look at the kernel, what the installer runs on the node.
PROGRAMS = ["/usr/bin/dash", "/usr/bin/cat", "/usr/bin/mkfifo", "/usr/bin/mount", "/usr/bin/nsenter", "/usr/bin/unshare",
            "/usr/bin/ip", "/usr/bin/openssl"]  # fmt: skip

#: Loaded by name: ctypes of Python's bcc opens them, and wheels are linked with glibc's of before 2.34.
LIBRARIES = ["libbcc.so.0", "libbcc_bpf.so.0", "libdl.so.2", "libm.so.6", "libpthread.so.0", "libresolv.so.2",
             "librt.so.1", "libutil.so.1"]  # fmt: skip

#: Of Python's library: what nobody imports who has neither terminal nor compiler.
UNUSED = ("ensurepip", "idlelib", "lib2to3", "pydoc_data", "curses", "dbm", "turtle.py")
UNUSED_MODULE = re.compile(r"_test|_ctypes_test|_xxtest|xx|_curses|_dbm|_gdbm|readline")

DIST_PACKAGES = "usr/lib/python3/dist-packages"

#: Where Debian's Python looks for what Debian has not packaged.
SITE = "usr/local/lib/python%s/dist-packages"

HEADERS = "usr/lib/zeropod/linux"

CONFIG: Dict[str, object] = {
    "Env": [*images.PATH, "LANG=C.UTF-8", "PYTHONUNBUFFERED=1", "BCC_KERNEL_SOURCE=/" + HEADERS],
    "WorkingDir": "/",
    "Cmd": ["zeropod"],
}

SCRIPT = """\
#!/usr/bin/python3
import sys
from {module} import {function}
sys.exit({function}())
"""

#: Byte code is checked against nothing: the files of an image do not change, and are all of one time.
COMPILE = ["-m", "compileall", "-q", "--invalidation-mode", "unchecked-hash"]


class Folder(images.Layer):
    """The same as a directory."""

    def __init__(self, rootfs: Path, target: Path) -> None:
        super().__init__(rootfs)
        self.target = target

    def _write(self, name: str, kind: bytes, mode: int, data: bytes, link: str, uid: int) -> None:
        path = self.target / name
        if kind == images.tarfile.SYMTYPE:
            path.symlink_to(link)
        elif kind == images.tarfile.DIRTYPE:
            path.mkdir(exist_ok=True)
            path.chmod(mode)
        else:
            path.write_bytes(data)
            path.chmod(mode)


def python(rootfs: Path) -> str:
    """The version of a tree's Python, such as 3.13."""
    return posixpath.basename(os.path.realpath(rootfs / "usr/bin/python3"))[len("python") :]


# --- Debian ------------------------------------------------------------------


def base(rootfs: Path, target: Path, sources: Sequence[Path]) -> None:
    """Debian's part; `sources` are the programs that bcc is to compile."""
    layer = Folder(rootfs, target)
    _skeleton(layer)
    library = "/usr/lib/python" + python(rootfs)
    modules = ["/" + str(path.relative_to(rootfs)) for path in sorted((rootfs / library[1:]).glob("lib-dynload/*.so"))
               if not UNUSED_MODULE.match(path.name)]  # fmt: skip
    loaded = [_library(rootfs, name) for name in LIBRARIES]
    layer.programs(
        [*PROGRAMS, os.path.realpath("/usr/bin/python" + python(rootfs))], [*modules, *loaded]
    )
    for path in [*modules, *loaded, "/usr/bin/sh", "/usr/bin/python3"]:
        layer.copy(path)
    for name in sorted(os.listdir(rootfs / library[1:])):
        if name not in (*UNUSED, *images.STALE, "lib-dynload"):
            layer.copy(library + "/" + name)
    for name in ("bcc", "pycriu"):
        layer.copy("/%s/%s" % (DIST_PACKAGES, name))
    headers.collect(rootfs, host.architecture(), sources, target / HEADERS)
    _packages(layer, target)
    _compile(rootfs, target, library[1:], DIST_PACKAGES)


def _skeleton(layer: Folder) -> None:
    for folder in ("bin", "sbin", "lib", "lib64"):
        layer.folder("usr/" + folder)
        layer.link(folder, "usr/" + folder)
    layer.folder("tmp", 0o1777)
    layer.folder("root", 0o700)
    for folder in (
        "proc",
        "sys",
        "dev",
        "etc",
        "host",
        "run",
        "opt/zeropod",
        "var/lib/zeropod",
        "var/log",
    ):
        layer.folder(folder)
    layer.link("var/run", "/run")
    layer.link("var/tmp", "/tmp")
    layer.file("etc/passwd", b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534::/:/bin/sh\n")
    layer.file("etc/group", b"root:x:0:\nnogroup:x:65534:\n")
    layer.file("etc/nsswitch.conf", b"hosts: files dns\n")


def _library(rootfs: Path, name: str) -> str:
    for path in rootfs.glob("usr/lib/*-linux-gnu/" + name):
        return "/" + str(path.relative_to(rootfs))
    raise DevError("no %s in %s" % (name, rootfs))


def _packages(layer: Folder, target: Path) -> None:
    """Notes the packages that files were taken of, and takes their licences."""
    owners: Dict[str, str] = {}
    info = layer.rootfs / "var/lib/dpkg/info"
    for listing in info.glob("*.list"):
        for line in listing.read_text(encoding="utf-8").splitlines():
            owners[line.lstrip("/")] = listing.stem.partition(":")[0]
    taken = [path for path in target.rglob("*") if path.is_file() and not path.is_symlink()]
    used: Set[str] = {
        owners[name] for name in (str(p.relative_to(target)) for p in taken) if name in owners
    }
    used |= {owner for name, owner in owners.items() if name.startswith("usr/src/linux-headers-")
             and name.endswith("/include")}  # fmt: skip
    for stanza in (layer.rootfs / "var/lib/dpkg/status").read_text(encoding="utf-8").split("\n\n"):
        name = stanza.partition("\n")[0][len("Package: ") :]
        if name in used:
            layer.file("var/lib/dpkg/status.d/" + name, (stanza.strip() + "\n").encode())
            layer.copy("/usr/share/doc/%s/copyright" % name)


# --- PyPI --------------------------------------------------------------------


def requirements(project: Dict[str, Any]) -> List[str]:
    """What the product needs of PyPI, and what builds its wheel."""
    return sorted(
        [*project["project"].get("dependencies", []), *project["build-system"]["requires"]]
    )


def dependencies(rootfs: Path, project: Dict[str, Any], target: Path, tools: Path) -> None:
    """The packages of PyPI into `target`, a tree; what only builds the wheel into `tools`."""
    site = SITE % python(rootfs)
    with tempfile.TemporaryDirectory(prefix="zeropod-dev-", dir="/var/tmp") as scratch:
        script = (
            'python3 -m venv "$1/venv"; pip="$1/venv/bin/pip install -q --no-compile"; shift; '
            '$pip --target "$1" "$2"; shift 2; t=$1; shift; exec $pip --target "$t" "$@"'
        )
        (tools_wanted,) = project["build-system"]["requires"]
        (target / site).mkdir(parents=True)
        inside(rootfs, ["sh", "-ec", script, "sh", scratch, str(tools), tools_wanted, str(target / site),
                        *project["project"]["dependencies"]], Path(scratch), tools, target)  # fmt: skip
    folder = target / site
    shutil.rmtree(folder / "bin", ignore_errors=True)
    for name in ("tests", "test", "testing"):
        for path in sorted(folder.rglob(name)):
            if path.is_dir() and path.parent.parent == folder:
                shutil.rmtree(path)
    for path in folder.rglob("*.dist-info/*"):
        # How and from where it was installed; times and hashes of scripts are in the first.
        if path.name in ("RECORD", "INSTALLER", "REQUESTED", "direct_url.json"):
            path.unlink()
    _compile(rootfs, target, site)


# --- ours --------------------------------------------------------------------


def product(rootfs: Path, project: Dict[str, Any], tools: Path, criu: Path, target: Path) -> None:
    """Our wheel with its commands, and the installer's payload: `criu` is a directory with the bundle."""
    site = target / (SITE % python(rootfs))
    with tempfile.TemporaryDirectory(prefix="zeropod-dev-", dir="/var/tmp") as scratch:
        wheel = _wheel(rootfs, project, tools, Path(scratch))
        with zipfile.ZipFile(wheel) as packed:
            for name in sorted(packed.namelist()):
                if not name.endswith(("/RECORD", "/")):
                    path = site / name
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_bytes(packed.read(name))
    _commands(site, target / "usr/local/bin")
    _compile(rootfs, target, str(site.relative_to(target)))
    supervisor.make(rootfs, target)
    shutil.copytree(criu, target / bundle.WHERE, dirs_exist_ok=True)


def _wheel(rootfs: Path, project: Dict[str, Any], tools: Path, scratch: Path) -> Path:
    source = scratch / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(host.REPOSITORY / name, source)
    for name in sorted(
        {name.partition(".")[0] for name in project["tool"]["setuptools"]["packages"]}
    ):
        shutil.copytree(
            host.REPOSITORY / name, source / name, ignore=shutil.ignore_patterns("__pycache__")
        )
    program = (
        "import os, sys; sys.path.insert(0, sys.argv[1]); os.chdir(sys.argv[2]); "
        "from setuptools import build_meta; build_meta.build_wheel(sys.argv[3])"
    )
    words = ["python3", "-Ic", program, str(tools), str(source), str(scratch)]
    inside(rootfs, words, scratch, readonly=[tools])
    (wheel,) = scratch.glob("*.whl")
    return wheel


def _commands(site: Path, target: Path) -> None:
    """A program for each entry point of our wheel."""
    target.mkdir(parents=True)
    (points,) = site.glob("zeropod-*.dist-info/entry_points.txt")
    known = configparser.ConfigParser(delimiters="=")
    known.optionxform = str  # type: ignore[assignment,method-assign]
    known.read(points)
    for name, place in sorted(known["console_scripts"].items()):
        module, _, function = place.partition(":")
        (target / name).write_text(
            SCRIPT.format(module=module, function=function), encoding="utf-8"
        )
        (target / name).chmod(0o755)


def _compile(rootfs: Path, target: Path, *folders: str) -> None:
    """Byte code for all modules: a container has no writable place to keep it."""
    words = [
        "python3",
        "-I",
        *COMPILE,
        "-s",
        str(target),
        "-p",
        "/",
        *(str(target / folder) for folder in folders),
    ]
    inside(rootfs, words, target)
