"""What is done to a cluster from outside: our image into it, a reboot, and the tests that go through its API."""

from __future__ import annotations

import shutil
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import Dict, Iterator, List

from dev.lib import archive, cluster_services, host, kubernetes, plugin, sandbox
from dev.lib.environment import Environment
from dev.lib.node import Node
from dev.lib.process import run

#: How the sandbox of the tests reaches the API: its own 127.0.0.1:6443 leads into the node's network.
RELAY = (
    "ip link set lo up; socat TCP-LISTEN:6443,fork,reuseaddr,bind=127.0.0.1 "
    'UNIX-CONNECT:/node/%s 2>/dev/null & exec "$@"' % cluster_services.API.name
)

#: Where `kubectl zeropod` is in the node.
PLUGIN = "/usr/local/lib/kubectl-zeropod"

#: Asks for a reboot and waits until it is over.
REBOOT = "sh -c 'touch /out/reboot; while [ -e /out/reboot ]; do sleep 0.5; done'"


def load(node: Node, environment: Environment) -> None:
    """Builds the product's image and imports it."""
    path = node.state / "log/zeropod.tar"
    archive.write(environment, path)
    try:
        run(node.entry(["ctr", "-n", "k8s.io", "images", "import", "/var/log/" + path.name]))
    finally:
        path.unlink()


def plug(node: Node, environment: Environment) -> None:
    """Packs `kubectl zeropod` and unpacks it where the node's kubectl finds it."""
    path = node.state / "log/kubectl-zeropod.tar.gz"
    plugin.write(path, environment.project["project"])
    try:
        run(node.entry(["mkdir", "-p", PLUGIN]))
        run(node.entry(["tar", "-xzf", "/var/log/" + path.name, "-C", PLUGIN]))
        run(node.entry(["ln", "-sf", PLUGIN + "/" + plugin.PROGRAM, "/usr/local/bin/"]))
    finally:
        path.unlink()


def reboot(node: Node, environment: Environment) -> None:
    """Ends the node as a power cut does, and starts it with its disks."""
    facts = node.facts() or {}
    node.stop(keep=True)
    node.start(environment, variant=facts["variant"], zeropod=False, kubernetes=True)


@contextmanager
def tests(node: Node, environment: Environment, words: List[str]) -> Iterator[List[str]]:
    """The command line that runs `words` where kubectl, the API and nothing else of the node are.

    As long as the context lasts the node is rebooted when that is asked for. What `words` write into /out is in the
    directory `out` of the node's state.
    """
    out = node.state / "log/out"
    out.mkdir(mode=0o777, exist_ok=True)
    shutil.copy(node.state / "upper" / str(cluster_services.ADMIN)[1:], out / "kubeconfig")
    env: Dict[str, str] = {
        "KUBECONFIG": "/out/kubeconfig",
        # The production overlay with the image that is built here.
        "ZEROPOD_E2E_OVERLAY": "manifests/kind",
        "ZEROPOD_E2E_UNINSTALL": "manifests/kind/uninstall",
        "ZEROPOD_E2E_REBOOT": REBOOT,
        "PYTHONPATH": "/src",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONUNBUFFERED": "1",
        "HOME": "/tmp",
    }
    over = threading.Event()
    watcher = threading.Thread(target=_reboots, args=(node, environment, out / "reboot", over))
    watcher.start()
    try:
        yield sandbox.command(
            [kubernetes.layer(environment.cache), *environment.layers],
            ["sh", "-c", RELAY, "sh", *words],
            binds={"/out": out, "/node": node.state / "log/node"},
            readonly={"/src": host.REPOSITORY}, env=env, cwd="/src", net=True,
        )  # fmt: skip
    finally:
        over.set()
        watcher.join()


def _reboots(node: Node, environment: Environment, asked: Path, over: threading.Event) -> None:
    while not over.wait(0.2):
        if asked.exists():
            try:
                reboot(node, environment)
            finally:
                asked.unlink()
