"""Where each distribution of Kubernetes keeps containerd's configuration, and how it is restarted."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence

from installer.errors import InstallError
from installer.host import Host

PROGRAMS = ("/usr/local/bin", "/usr/bin")
"""Where the distribution's own containerd and ctr are."""


@dataclasses.dataclass(frozen=True)
class Layout:
    """One distribution.

    Attributes:
        name: What --layout takes.
        marks: Paths, one of which exists on its nodes and on no other's.
        config: The configuration that containerd reads, or what the distribution makes it from.
        drop_in: Directory of files that are merged into it, "" if there is none in any version.
        units: systemd units, of which those that run are restarted.
        socket: containerd's.
        template: Whether `config` is a Go template that is rendered at each start.
        rendered: What it is rendered to, if it is.
        whole: Whether the unit is all of Kubernetes on this node. Their units kill nothing but the main process, so that
            containers run on over a restart.
    """

    name: str
    marks: Sequence[str]
    config: str
    drop_in: str
    units: Sequence[str]
    socket: str
    template: bool = False
    rendered: str = ""
    whole: bool = False


def _rancher(name: str, units: Sequence[str]) -> Layout:
    agent = f"/var/lib/rancher/{name}/agent"
    return Layout(
        name=name,
        marks=(f"{agent}/etc/containerd",),
        config=f"{agent}/etc/containerd/config.toml.tmpl",
        drop_in=f"{agent}/etc/containerd/config.toml.d",
        units=units,
        socket="/run/k3s/containerd/containerd.sock",
        template=True,
        rendered=f"{agent}/etc/containerd/config.toml",
        whole=True,
    )


LAYOUTS = (
    _rancher("k3s", ("k3s", "k3s-agent")),
    _rancher("rke2", ("rke2-server", "rke2-agent")),
    # https://docs.k0sproject.io/stable/runtime/: k0s merges snippets for the CRI plugin itself.
    Layout(
        name="k0s",
        marks=("/etc/k0s/containerd.toml", "/var/lib/k0s/bin/containerd"),
        config="/etc/k0s/containerd.toml",
        drop_in="/etc/k0s/containerd.d",
        units=("k0scontroller", "k0sworker"),
        socket="/run/k0s/containerd.sock",
        whole=True,
    ),
    # https://microk8s.io/docs/configuring-services: the template has ${...} in strings and is TOML nevertheless.
    Layout(
        name="microk8s",
        marks=("/var/snap/microk8s/current/args/containerd-template.toml",),
        config="/var/snap/microk8s/current/args/containerd-template.toml",
        drop_in="",
        units=("snap.microk8s.daemon-containerd",),
        socket="/var/snap/microk8s/common/run/containerd.sock",
    ),
    # kubeadm, kind, the cloud providers and whatever else runs containerd as the distribution packages it.
    Layout(
        name="containerd",
        marks=("/etc/containerd", "/usr/bin/containerd", "/usr/local/bin/containerd"),
        config="/etc/containerd/config.toml",
        drop_in="/etc/containerd/conf.d",
        units=("containerd",),
        socket="/run/containerd/containerd.sock",
    ),
)


def find(host: Host, wanted: str = "auto") -> Layout:
    """Return the layout of a node.

    Raises:
        InstallError: there is no such layout, or the node has none.
    """
    known = {layout.name: layout for layout in LAYOUTS}
    if wanted != "auto":
        if wanted not in known:
            raise InstallError(
                f"--layout {wanted!r} is not known", f"use one of auto, {', '.join(known)}"
            )
        return _chosen(host, known[wanted])
    for layout in LAYOUTS:
        if any(host.exists(mark) for mark in layout.marks):
            return _chosen(host, layout)
    raise InstallError(
        f"no containerd was found below {host.root}",
        "mount the node's root directory there (--host-root), or name the layout (--layout)",
    )


def variants(layout: Layout) -> tuple[Layout, ...]:
    """Return all forms that a layout has: k3s and rke2 have other names for containerd 2."""
    if not layout.template:
        return (layout,)
    directory = layout.config.rsplit("/", 1)[0]
    modern = dataclasses.replace(
        layout,
        config=f"{directory}/config-v3.toml.tmpl",
        drop_in=f"{directory}/config-v3.toml.d",
    )
    return layout, modern


def _chosen(host: Host, layout: Layout) -> Layout:
    """Return the form of a layout that this node has."""
    if not layout.template:
        return layout
    _, modern = variants(layout)
    return modern if host.exists(modern.config) or _is_v3(host, layout) else layout


def _is_v3(host: Host, layout: Layout) -> bool:
    return bool(re.search(r"^version\s*=\s*3", host.read(layout.rendered) or "", re.MULTILINE))


def version(host: Host, layout: Layout) -> tuple[int, int]:
    """Return containerd's version, major and minor; (0, 0) if it cannot be told.

    The embedded one of k3s and the like is not asked: their files say what they understand.
    """
    if layout.name != "containerd":
        return (0, 0)
    path = program(host, layout, "containerd")
    told = host.run(path, "--version").stdout if path else ""
    if found := re.search(r"\bv?(\d+)\.(\d+)\.\d+", told):
        return int(found[1]), int(found[2])
    return (0, 0)


def program(host: Host, layout: Layout, name: str) -> str:
    """Return the path of containerd or of what comes with it, "" where the distribution has its own way to it."""
    if layout.name != "containerd":
        return ""
    paths = [f"{directory}/{name}" for directory in PROGRAMS]
    return next((path for path in paths if host.exists(path)), "")
