"""What an operator can set on the daemon; every field says its unit, default and reason."""

import dataclasses
from pathlib import Path

from checkpointer.quantities import Bytes, Share


@dataclasses.dataclass(frozen=True, slots=True)
class Settings:
    """The daemon's settings, from its command line."""

    socket: Path = Path("/run/zeropod/zeropod.sock")
    """API for the plugin and the command line; root only."""

    run_dir: Path = Path("/run/zeropod")
    """What must survive the daemon but not a reboot: records, zygote sockets, the kernel-feature cache."""

    state_dir: Path = Path("/var/lib/zeropod")
    """Images and the staging area beside them (a rename must not cross file systems)."""

    disk_reserve: Share = Share("16%")
    """Part of the images' disk that sleeps leave free. On a node with one disk the kubelet begins to evict pods at 15%
    (`imagefs.available`; 10% for `nodefs.available`), and putting a pod to sleep must not be what ends another."""

    inode_reserve: Share = Share("6%")
    """Part of that disk's inodes that sleeps leave free; the kubelet begins to evict at 5% (`nodefs.inodesFree`)."""

    image_budget: Bytes = Bytes(0)
    """The most that all images of the node may take together, such as `20Gi`; 0 for no limit but the disk's."""

    memory_reserve: Bytes = Bytes("128Mi")
    """Memory of the node that wakes leave free: the kubelet begins to evict at 100Mi (`memory.available`). A wake that
    finds less is held until there is more."""

    bundle: Path = Path("/opt/zeropod/criu")
    """The relocatable criu with its libraries, its ld.so and zygote.so."""

    container_dir: Path = Path("/opt/zeropod/container")
    """What managed containers see as /.zeropod: the supervisor and the file it opens to be woken."""

    pin_root: Path = Path("/sys/fs/bpf/zeropod")
    """Where programs and maps are pinned, so that packets stay held while the daemon is away."""

    kubelet_cgroup: str = "auto"
    """The kubelet's cgroup, by which its probes are known: a directory of cgroup version 2; `auto` for that of the
    process named kubelet (of k3s, RKE2, k0s and MicroK8s, theirs); empty: probes count and wake as all traffic does."""

    workers: int = 32
    """Threads for checkpoints, restores and looks at /proc; they wait for criu and the kernel most of the time, so
    more than the cores. A thundering herd beyond it queues."""

    metrics_addr: str = "127.0.0.1:9419"
    """Where Prometheus finds the metrics, and the kubelet `/readyz` and `/healthz`: `HOST:PORT`, `:PORT` for all
    addresses; empty for nowhere."""

    node_name: str = ""
    """Name of the node in Kubernetes; without it that of the environment's NODE_NAME."""

    status_labels: bool = False
    """Label pods with what their containers are: `status.zeropod.ctrox.dev/CONTAINER: RUNNING` or `SCALED_DOWN`."""

    status_events: bool = False
    """Tell of sleeps, wakes and failures by events of their pods."""

    in_place_scaling: bool = False
    """Lower the requests of containers that sleep to 1m of CPU and 1Ki of memory, and give them back at the wake."""

    startup_taint: bool = False
    """Take the taint `zeropod.ctrox.dev/not-ready` off the node when the plugin is there."""

    kubeconfig: str = ""
    """How to reach the Kubernetes API; without it as the service account of the pod that this runs in."""

    log_format: str = "text"
    """`text` for people, `json` for programs."""

    log_level: str = "info"
    """`debug`, `info`, `warning` or `error`."""

    def kubernetes(self) -> list[str]:
        """What is to be done by way of the Kubernetes API, by its flag's name."""
        flags = ("status_labels", "status_events", "in_place_scaling", "startup_taint")
        return [flag.replace("_", "-") for flag in flags if getattr(self, flag)]
