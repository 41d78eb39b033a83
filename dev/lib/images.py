"""Test images made of the rootfs's own files: OCI archives, no registry needed.

Each image is a busybox layer and, above it, some programs with their shared libraries. Times and
owners in the archives are fixed, so the same rootfs gives the same digests.
"""

from __future__ import annotations

import base64
import io
import os
import posixpath
import re
import tarfile
from pathlib import Path
from typing import Dict, Iterable, List, Sequence, Set

from dev.lib import host, oci, sandbox
from dev.lib.cache import Cache
from dev.lib.errors import DevError
from dev.lib.process import run

PAUSE = "zeropod.dev/pause:1"

PATH = ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]

USERS = (
    "root:x:0:0:root:/root:/bin/sh\nwww-data:x:33:33::/:/bin/sh\nredis:x:999:999::/data:/bin/sh\n"
    "app:x:1000:1000::/data:/bin/sh\nnobody:x:65534:65534::/:/bin/sh\n"
)
GROUPS = "root:x:0:\nwww-data:x:33:\nredis:x:999:\napp:x:1000:\nnogroup:x:65534:\n"

NGINX = """\
worker_processes 1;
error_log /dev/stderr;
pid /run/nginx.pid;
user root;
events {}
http {
  include mime.types;
  access_log /dev/stdout;
  server {
    listen 80;
    listen [::]:80;
    root /usr/share/nginx/html;
    location = /healthz { return 200 "ok\\n"; }
  }
}
"""

#: Two thirds of Python's library are its tests and stale byte code.
STALE = ("test", "tests", "__pycache__", "idlelib", "tkinter")

PROGRAMS = host.REPOSITORY / "dev" / "programs"


class Layer:
    """One tar file system layer in memory."""

    def __init__(self, rootfs: Path) -> None:
        self.rootfs = rootfs
        self.seen: Set[str] = set()
        self.buffer = io.BytesIO()
        self.tar = tarfile.TarFile(fileobj=self.buffer, mode="w", format=tarfile.PAX_FORMAT)

    def _put(
        self, name: str, kind: bytes, mode: int, data: bytes = b"", link: str = "", uid: int = 0
    ) -> None:
        name = name.strip("/")
        if not name or name in self.seen:
            return
        if "/" in name:
            self.folder(posixpath.dirname(name))
        self.seen.add(name)
        self._write(name, kind, mode, data, link, uid)

    def _write(self, name: str, kind: bytes, mode: int, data: bytes, link: str, uid: int) -> None:
        info = tarfile.TarInfo(name)
        info.type, info.mode, info.linkname, info.size = kind, mode, link, len(data)
        info.uid = info.gid = uid
        self.tar.addfile(info, io.BytesIO(data))

    def folder(self, name: str, mode: int = 0o755, uid: int = 0) -> None:
        """An empty directory."""
        self._put(name, tarfile.DIRTYPE, mode, uid=uid)

    def link(self, name: str, target: str) -> None:
        """A symbolic link."""
        self._put(name, tarfile.SYMTYPE, 0o777, link=target)

    def file(self, name: str, data: bytes, mode: int = 0o644) -> None:
        """A file with this content."""
        self._put(name, tarfile.REGTYPE, mode, data)

    def tree(self, source: Path, name: str) -> None:
        """A file or a whole folder of somewhere else."""
        if source.is_dir():
            self.folder(name)
            for item in sorted(source.iterdir()):
                if item.name not in STALE:
                    self.tree(item, name + "/" + item.name)
        else:
            self.file(name, source.read_bytes(), source.stat().st_mode & 0o7777)

    def copy(self, path: str) -> None:
        """A path of the rootfs: a file, a link together with its target, or a whole folder."""
        # Debian's /lib, /bin, .. are links into /usr; the base layer has the same links.
        path = re.sub(r"^/(bin|sbin|lib|lib64)/", r"/usr/\1/", path)
        here = self.rootfs / path[1:]
        if here.is_symlink():
            target = os.readlink(here)
            self.link(path, target)
            self.copy(posixpath.normpath(posixpath.join(posixpath.dirname(path), target)))
        elif here.is_dir():
            self.folder(path, here.stat().st_mode & 0o7777)
            for name in sorted(os.listdir(here)):
                if name not in STALE:
                    self.copy(path + "/" + name)
        elif here.is_file():
            self.file(path, here.read_bytes(), here.stat().st_mode & 0o7777)

    def programs(self, paths: Sequence[str], more: Sequence[str] = ()) -> None:
        """Programs (or loadable modules) of the rootfs with every shared library they need."""
        for path in [*paths, *self.libraries([*paths, *more])]:
            self.copy(path)

    def libraries(self, paths: Sequence[str]) -> List[str]:
        """The shared libraries that files of the rootfs need, by its own loader: it need not have a shell."""
        loader = min(self.rootfs.glob("usr/lib/*-linux-gnu/ld-linux-*.so.*"))
        lister = ["chroot", self.rootfs, "/" + str(loader.relative_to(self.rootfs)), "--list"]
        found: Set[str] = set()
        for path in paths:
            listing = run([*lister, path])
            lost = re.findall(r"(\S+) => not found", listing)
            if lost:
                raise DevError("%s needs %s, which is not in the tree" % (path, ", ".join(lost)))
            # The loader itself is named by the path that programs have in them, "=>" where it lies.
            found |= set(re.findall(r"(/\S+) (?:\(0x|=>)", listing))
        return sorted(found)

    def bytes(self) -> bytes:
        """The finished layer."""
        self.tar.close()
        return self.buffer.getvalue()


def archives(cache: Cache, rootfs: Path) -> Path:
    """A directory of OCI archives `<name>.tar`, each named `localhost/<name>:1` inside."""
    sources = sorted(PROGRAMS.glob("*.c"))

    def build(target: Path) -> None:
        compiled = _compile(rootfs, sources)
        lowest = base(rootfs)
        layers = {
            "busybox": ([], ["sh"], "/"),
            "redis": (
                [_redis(rootfs)],
                ["redis-server", "--protected-mode", "no", "--save", ""],
                "/data",
            ),
            "nginx": ([_nginx(rootfs)], ["nginx", "-g", "daemon off;"], "/"),
            "python": ([python(rootfs)], ["python3"], "/"),
            "programs": ([_programs(rootfs, compiled)], ["sleeper"], "/"),
        }
        for name, (upper, command, cwd) in layers.items():
            write(target, name, [lowest, *upper], command, cwd)
        pause = Layer(rootfs)
        pause.file("pause", compiled["pause"], 0o755)
        oci.write(target / "pause.tar", PAUSE, [pause.bytes()], {"Entrypoint": ["/pause"]},
                  architecture=host.architecture())  # fmt: skip

    return cache.artefact(
        "images", [rootfs.name, Path(__file__), Path(oci.__file__), *sources], build
    )


def _compile(rootfs: Path, sources: Iterable[Path]) -> Dict[str, bytes]:
    """Our own small programs, static, by name."""
    script = (
        'cd /src/dev/programs; for c in *.c; do gcc -Os -s -static -Wall -pthread -o "/tmp/${c%.c}" "$c"; '
        'done; cd /tmp; tar -c $(cd /src/dev/programs; ls *.c | sed "s/[.]c$//") | base64 -w0'
    )
    packed = run(
        sandbox.command([rootfs], ["sh", "-ec", script], readonly={"/src": host.REPOSITORY})
    )
    compiled: Dict[str, bytes] = {}
    with tarfile.open(fileobj=io.BytesIO(base64.b64decode(packed))) as tar:
        for member in tar:
            stream = tar.extractfile(member)
            if stream is not None:
                compiled[member.name] = stream.read()
    return compiled


def write(
    target: Path, name: str, layers: Sequence[bytes], command: Sequence[str], cwd: str
) -> None:
    """An image `localhost/<name>:1` as the archive `<name>.tar`."""
    config = {"Env": PATH, "Cmd": command, "WorkingDir": cwd}
    oci.write(
        target / (name + ".tar"),
        "localhost/%s:1" % name,
        layers,
        config,
        architecture=host.architecture(),
    )


def base(rootfs: Path) -> bytes:
    """The lowest layer of all: busybox, users, folders."""
    layer = Layer(rootfs)
    for folder in ("bin", "sbin", "lib", "lib64"):
        layer.folder("usr/" + folder)
        layer.link(folder, "usr/" + folder)
    layer.folder("tmp", 0o1777)
    layer.folder("data", 0o1777)
    layer.folder("root", 0o700)
    for folder in ("proc", "sys", "dev", "etc", "run", "var/log", "var/lib"):
        layer.folder(folder)
    layer.file("etc/passwd", USERS.encode())
    layer.file("etc/group", GROUPS.encode())
    layer.file("etc/nsswitch.conf", b"hosts: files dns\n")
    layer.copy("/usr/bin/busybox")
    for applet in run(["chroot", rootfs, "/usr/bin/busybox", "--list"]).split():
        layer.link("usr/bin/" + applet, "busybox")
    return layer.bytes()


def _redis(rootfs: Path) -> bytes:
    layer = Layer(rootfs)
    layer.programs(["/usr/bin/redis-server", "/usr/bin/redis-cli"])
    return layer.bytes()


def _nginx(rootfs: Path) -> bytes:
    layer = Layer(rootfs)
    layer.programs(["/usr/sbin/nginx"])
    for path in ("/etc/nginx/mime.types", "/usr/share/nginx"):
        layer.copy(path)
    for folder in ("var/lib/nginx", "var/log/nginx"):
        layer.folder(folder)
    layer.file("etc/nginx/nginx.conf", NGINX.encode())
    return layer.bytes()


def python(rootfs: Path) -> bytes:
    """The rootfs's Python and its library."""
    layer = Layer(rootfs)
    program = os.path.realpath(rootfs / "usr/bin/python3")[len(os.path.realpath(rootfs)) :]
    library = "/usr/lib/" + posixpath.basename(program)
    modules = sorted((rootfs / library[1:]).glob("lib-dynload/*.so"))
    layer.programs([program], ["/" + str(path.relative_to(rootfs)) for path in modules])
    layer.copy("/usr/bin/python3")
    layer.copy(library)
    return layer.bytes()


def _programs(rootfs: Path, compiled: Dict[str, bytes]) -> bytes:
    layer = Layer(rootfs)
    for name, data in sorted(compiled.items()):
        layer.file("usr/local/bin/" + name, data, 0o755)
    return layer.bytes()
