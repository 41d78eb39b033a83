"""What can be set, why, and to what it is set by default."""

from __future__ import annotations

import pathlib
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """One field for each command line flag of the same name."""

    nri_socket: pathlib.Path = pathlib.Path("/var/run/nri/nri.sock")
    """Where the runtime listens for plugins; its own setting is `socket_path`."""

    daemon_socket: pathlib.Path = pathlib.Path("/run/zeropod/zeropod.sock")
    """Where the companion daemon listens; it may be away at any time."""

    containerd_socket: pathlib.Path = pathlib.Path("/run/containerd/containerd.sock")
    """containerd's gRPC API, where stored specs are read and written. k3s has its own place."""

    containerd_namespace: str = "k8s.io"
    """containerd's namespace of the containers that CRI makes; the same on every Kubernetes."""

    container_dir: pathlib.Path = pathlib.Path("/opt/zeropod/container")
    """Directory on the host that holds the supervisor (`init`) and the wake file (`wake`); it is
    bound read-only into managed containers. Must have the same path here and on the host, and
    must not change while managed containers run."""

    state_dir: pathlib.Path = pathlib.Path("/run/zeropod/plugin")
    """Directory that outlives the plugin, and not the machine: what was changed in running pods and is
    to be put back."""

    name: str = "zeropod"
    """Name under which the plugin registers."""

    index: str = "90"
    """Two digits; plugins run in this order. Late, so that the spec is seen as others left it."""

    log_format: str = "text"
    """"text" for people or "json", one object a line, for programs."""

    log_level: str = "info"
    """Least severe level that is logged: debug, info, warning, error."""
