"""Nodes as directories, with a systemd and a containerd that can be told how to behave."""

import contextlib
import dataclasses
import socket
import subprocess
from pathlib import Path

from installer import containerd, layouts
from installer.host import Host


@dataclasses.dataclass(frozen=True)
class Node(Host):
    """A node in a directory; its programs are answered from here."""

    log: list = dataclasses.field(default_factory=list)
    listening: dict = dataclasses.field(default_factory=dict)
    active: tuple = ("containerd",)
    comes_up: list = dataclasses.field(default_factory=lambda: [True])

    def put(self, path, text):
        real = self.real(path)
        real.parent.mkdir(parents=True, exist_ok=True)
        real.write_text(text)
        return self

    def run(self, *argv, timeout=0):
        self.log.append(argv)
        code, out = 0, ""
        match argv:
            case (_, "--version"):
                out = self.read("/version") or ""
            case (_, "--config", path, "config", "dump"):
                out = self.dumps(path)
            case (_, "-a", _, "plugins", "ls"):
                out = self.read("/plugins") or ""
            case ("systemctl", "is-active", unit):
                code, out = (0, "active\n") if unit in self.active else (3, "inactive\n")
            case ("systemctl", "restart", _) | ("sh", "-c", _):
                self.restart("containerd")
        return subprocess.CompletedProcess(argv, code, out, "")

    @property
    def knows(self):
        """What containerd read when it started."""
        return self.read("/run/read")

    def restart(self, _):
        up = self.comes_up[0] if len(self.comes_up) == 1 else self.comes_up.pop(0)
        self._serve(up)
        self.put("/run/read", self.read("/etc/containerd/config.toml") or "")

    def close(self):
        """Its containerd ends."""
        while self.listening:
            self.listening.popitem()[1].close()

    def _serve(self, up):
        for path in ("/run/containerd/containerd.sock", containerd.SOCKET):
            if (old := self.listening.pop(path, None)) is not None:
                old.close()
            real = self.real(path)
            real.parent.mkdir(parents=True, exist_ok=True)
            real.unlink(missing_ok=True)
            if up:
                self.listening[path] = one = socket.socket(socket.AF_UNIX)
                with contextlib.chdir(real.parent):
                    one.bind(real.name)
                one.listen()

    def dumps(self, path):
        """A containerd that merges nothing."""
        return self.read("/dump") or self.read(path) or ""

    def restarts(self):
        return [argv[2] for argv in self.log if argv[:2] == ("systemctl", "restart")]

    def files(self):
        """Every file but those of the machine: path on the node to text."""
        return {
            f"/{path.relative_to(self.root)}": path.read_text()
            for path in sorted(self.root.rglob("*"))
            if path.is_file() and not path.is_relative_to(self.root / "run")
        }


def plain(root, version="1.7.24", config=None):
    """A node whose containerd is the distribution's."""
    node = Node(Path(root))
    node.put("/version", f"containerd github.com/containerd/containerd v{version} abc")
    node.put("/usr/bin/containerd", "")
    (node.root / "etc/containerd").mkdir(parents=True)
    (node.root / "run/systemd/system").mkdir(parents=True)
    if config is not None:
        node.put("/etc/containerd/config.toml", config)
    return node


def found(node, layout):
    """What decides."""
    return containerd.Found(
        config=node.read(layout.config),
        rendered=node.read(layout.rendered) if layout.rendered else None,
        drop_in=node.read(f"{layout.drop_in}/{containerd.DROP_IN}") if layout.drop_in else None,
        version=layouts.version(node, layout),
        others=[
            node.read(path)
            for path in node.listed(layout.drop_in, ".toml")
            if not path.endswith(containerd.DROP_IN)
        ],
        kept=node.exists(layout.config + containerd.BACKUP),
    )
