"""Second half of the node's PID 1: the node's network, then its services, kept running.

A service that ends is started again 0.2 s later (one that keeps failing, after up to 2 s), unless
`/run/node/hold/<name>` exists. Each has a
cgroup of its own, a pid file `/run/node/<name>.pid` and a log `/var/log/node/<name>.log`. Runs on
the node's own Python; standard library only.
"""

import json
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from dev import patience
from dev.lib import cluster_services
from dev.lib.service import LOGS, RUN, Service, join

log = logging.getLogger("keeper")

PYTHON = "/opt/zeropod/venv/bin/python"
CODE = Path("/opt/zeropod/lib/python")

#: How long a service may take until it answers, in seconds: the daemon compiles BPF programs first.
PATIENCE = 40.0

DAEMON_SOCKET = "/run/zeropod/zeropod.sock"
NRI_SOCKET = "/nri/nri.sock"

#: A distribution's, with what the installer would add.
CONTAINERD = (
    cluster_services.CONTAINERD
    + """\
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.zeropod]
    runtime_type = "io.containerd.runc.v2"

[plugins."io.containerd.nri.v1.nri"]
  disable = false
"""
)

CNI = {
    "cniVersion": "1.0.0",
    "name": "node",
    "plugins": [
        {
            "type": "bridge",
            "bridge": "cni0",
            "isGateway": True,
            "hairpinMode": True,
            "ipam": {
                "type": "host-local",
                "dataDir": "/run/cni-ipam",
                "ranges": [[{"subnet": "10.88.0.0/16"}], [{"subnet": "fd00:88::/64"}]],
                "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}],
            },
        }
    ],
}


def pass_controllers_down() -> None:
    """Cgroup v2: lets pods have limits. Fails as long as a process is in the root: try for a while."""
    root = Path("/sys/fs/cgroup")
    if not (root / "cgroup.controllers").exists():
        return
    for controller in (root / "cgroup.controllers").read_text(encoding="ascii").split():
        for _ in range(100):
            try:
                (root / "cgroup.subtree_control").write_text(f"+{controller}", encoding="ascii")
                break
            except OSError:
                time.sleep(0.02)


def network(name: str, *, kubernetes: bool) -> None:
    """Loopback, forwarding, the CNI network. Pods are reached through its bridge."""
    socket.sethostname(name)
    Path("/etc/hosts").write_text(
        f"127.0.0.1 localhost\n::1 localhost\n127.0.1.1 {name}\n", encoding="utf-8"
    )
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    sysctl = Path("/proc/sys/net")
    # Duplicate detection would keep each new IPv6 address unusable for a second.
    for item, value in (("ipv4/ip_forward", "1"), ("ipv6/conf/all/forwarding", "1"),
                        ("ipv6/conf/default/accept_dad", "0")):  # fmt: skip
        if (sysctl / item).exists():
            (sysctl / item).write_text(value, encoding="ascii")
    folder = Path("/etc/cni/net.d")
    folder.mkdir(parents=True, exist_ok=True)
    config = json.loads(json.dumps(CNI))
    if not (sysctl / "ipv6").exists():
        log.warning("this kernel has no IPv6: pods get IPv4 addresses only")
        del config["plugins"][0]["ipam"]["ranges"][1], config["plugins"][0]["ipam"]["routes"][1]
    if kubernetes:
        config["plugins"].append({"type": "portmap", "capabilities": {"portMappings": True}})
    (folder / "10-node.conflist").write_text(json.dumps(config), encoding="utf-8")


def configure_containerd(template: str) -> None:
    """Sandboxes ask for oom_score_adj -998; lowering takes CAP_SYS_RESOURCE, which may be absent."""
    own = Path("/proc/self/oom_score_adj")
    before = own.read_text(encoding="ascii")
    try:
        own.write_text(str(int(before) - 1), encoding="ascii")
        own.write_text(before, encoding="ascii")
        restrict = "false"
    except OSError:
        restrict = "true"
    Path("/etc/containerd").mkdir(exist_ok=True)
    Path("/etc/containerd/config.toml").write_text(
        template % {"restrict": restrict}, encoding="utf-8"
    )


def services(plan: dict[str, object]) -> list[Service]:
    """What runs on this node, in order of start."""
    found = [Service("containerd", ["containerd"], "containerd")]
    if plan["kubernetes"]:
        found += cluster_services.services(str(plan["name"]))
    if plan["zeropod"]:
        env = {"PYTHONPATH": str(CODE), "PYTHONUNBUFFERED": "1"}
        for name, module in (("daemon", "checkpointer"), ("plugin", "nri_plugin")):
            found.append(Service(name, [PYTHON, "-m", module], f"zeropod-{name}",
                                 CODE / module / "__main__.py", env))  # fmt: skip
    return found


def prepare(running: list[Service], plan: dict[str, object], born: float) -> None:
    """Started by PID 1 beside the services: images in, then tells the host how it went."""
    try:
        wait(
            "containerd",
            lambda: (
                not subprocess.run(["ctr", "version"], capture_output=True, check=False).returncode
            ),
        )
        marks = Path("/var/lib/containerd/imported")
        marks.mkdir(exist_ok=True)
        archives = sorted((RUN / "images").glob("*.tar"))
        if plan["kubernetes"]:
            archives += [RUN / "apps" / name for name in cluster_services.APPS]
        for archive in archives:
            if not (marks / archive.name).exists():
                command = ["ctr", "-n", "k8s.io", "images", "import", str(archive)]
                done = subprocess.run(command, capture_output=True, text=True, check=False)
                if done.returncode:
                    raise OSError(done.returncode, f"{archive.name}: {done.stderr}")
                (marks / archive.name).touch()
        if plan["kubernetes"]:
            cluster_services.name_images()
            cluster_services.await_ready(str(plan["name"]), born, wait)
        notes = await_zeropod(running)
    except (OSError, subprocess.CalledProcessError) as error:
        (LOGS / "failed").write_text(f"{error}\n", encoding="utf-8")
        return
    fresh = LOGS / "ready.new"
    fresh.write_text("".join(f"{note}\n" for note in notes), encoding="utf-8")
    fresh.rename(LOGS / "ready")


def await_zeropod(running: list[Service]) -> list[str]:
    """Waits for daemon and plugin; returns a line for each that this checkout does not have.

    Raises:
        TimeoutError: one is there and does not answer.
    """
    notes = []
    for name, answers in (("daemon", daemon_answers), ("plugin", plugin_registered)):
        for service in running:
            if service.name == name:
                if service.needs and not service.needs.exists():
                    notes.append(f"without {name}: there is no {service.needs.relative_to(CODE)}")
                else:
                    wait(name, answers, PATIENCE)
    return notes


def daemon_answers() -> bool:
    """Whether somebody accepts connections on the daemon's socket."""
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(DAEMON_SOCKET)
        except OSError:
            return False
    return True


def plugin_registered() -> bool:
    """Whether containerd has an NRI connection (03 is SS_CONNECTED)."""
    table = [
        line.split() for line in Path("/proc/net/unix").read_text(encoding="utf-8").splitlines()
    ]
    return any(row[5] == "03" and row[-1].endswith(NRI_SOCKET) for row in table)


def wait(what: str, done: Callable[[], bool], seconds: float = 30.0) -> None:
    """Waits until something is so."""
    try:
        patience.until(done, seconds, pause=0.05)
    except TimeoutError as error:
        message = f"{what} did not answer: {error}"
        raise TimeoutError(message) from error


def keep(running: list[Service]) -> None:
    """Reaps for ever; starts what is due."""
    while True:
        for service in running:
            if service.due():
                service.start()
        signal.sigtimedwait([signal.SIGCHLD], 0.1)
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                break
            if not pid:
                break
            for service in running:
                if service.pid == pid:
                    service.ended(status)


def main() -> None:
    """PID 1."""
    born = time.time()
    os.environ.clear()
    os.environ.update(PATH="/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
                      HOME="/root", LANG="C.UTF-8")  # fmt: skip
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(message)s")
    plan = json.loads((RUN / "plan.json").read_text(encoding="utf-8"))
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCHLD])
    (RUN / "hold").mkdir()
    LOGS.mkdir(exist_ok=True)
    join("init")
    pass_controllers_down()
    network(plan["name"], kubernetes=plan["kubernetes"])
    if plan["kubernetes"]:
        cluster_services.prepare(plan["name"])
    if not plan["kept"]:
        # Later it may have been changed on purpose.
        configure_containerd(cluster_services.CONTAINERD if plan["kubernetes"] else CONTAINERD)
    running = services(plan)
    if not os.fork():
        signal.pthread_sigmask(signal.SIG_SETMASK, [])
        prepare(running, plan, born)
        os._exit(0)
    keep(running)


if __name__ == "__main__":
    main()
