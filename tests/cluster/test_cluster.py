"""A cluster comes up, runs pods, survives a reboot and leaves nothing. Standard library only: runs on the host."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import unittest
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY))

from dev.lib import footprint, kubernetes  # noqa: E402
from dev.lib.cache import Cache  # noqa: E402
from dev.lib.node import Node  # noqa: E402

DEV_CLUSTER = str(REPOSITORY / "dev/cluster")

POD = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"name": "web", "labels": {"app": "web"}},
    "spec": {"containers": [{
        "name": "nginx",
        "image": "nginx:1.29",
        "ports": [{"containerPort": 80}],
        "readinessProbe": {"httpGet": {"path": "/healthz", "port": 80}, "periodSeconds": 1},
    }]},
}  # fmt: skip


def dev_cluster(*words: str, stdin: str = "") -> str:
    """Runs dev/cluster and returns what it printed."""
    done = subprocess.run([sys.executable, DEV_CLUSTER, *words], capture_output=True, input=stdin, text=True, check=False)  # fmt: skip
    if done.returncode:
        msg = "dev/cluster {}: {}".format(" ".join(words), done.stderr)
        raise AssertionError(msg)
    return done.stdout


def documented() -> list[list[str]]:
    """The commands of getting-started with which a cluster comes up, without the program's name."""
    text = (REPOSITORY / "docs/getting-started.md").read_text(encoding="utf-8")
    found = [shlex.split(line) for line in re.findall(r"^# dev/cluster (.+)$", text, re.MULTILINE)]
    assert [words[0] for words in found] == ["start", "image"]
    return found


class OneCluster(unittest.TestCase):
    """From its start to its end."""

    def setUp(self) -> None:
        if not kubernetes.can_have(Cache()):
            self.skipTest(kubernetes.NO_GO)
        self.name = f"cluster-{os.getpid()}"
        self.addCleanup(dev_cluster, "stop", "--name", self.name)
        self.before = footprint.machine(self.name)

    def kubectl(self, *words: str, stdin: str = "") -> str:
        return dev_cluster("kubectl", "--name", self.name, *words, stdin=stdin)

    def node(self) -> Node:
        return Node(Cache(), self.name)

    def facts(self) -> dict[str, Any]:
        facts = self.node().facts()
        assert facts is not None
        return facts

    def restarts(self) -> int:
        pod = json.loads(self.kubectl("get", "pod", "web", "-o", "json"))
        return int(pod["status"]["containerStatuses"][0]["restartCount"])

    def fetch(self) -> str:
        """What the pod says through its Service."""
        address = self.kubectl("get", "service", "web", "-o", "jsonpath={.spec.clusterIP}")
        words = [
            "curl",
            "-sS",
            "--retry",
            "20",
            "--retry-all-errors",
            "--retry-delay",
            "1",
            "-m",
            "5",
        ]
        return dev_cluster("exec", "--name", self.name, "--", *words, f"http://{address}/healthz")

    def test_it_runs_pods_reboots_and_leaves_nothing(self) -> None:
        """As getting-started says; a pod is reached through a Service, before and after a reboot; then all is as before."""
        for verb, *words in documented():
            dev_cluster(verb, "--name", self.name, *words)
        plugin = dev_cluster("exec", "--name", self.name, "--", "kubectl", "zeropod", "--version")
        assert plugin.startswith("kubectl zeropod")
        images = dev_cluster("exec", "--name", self.name, "--", "ctr", "-n", "k8s.io", "images", "ls", "-q")  # fmt: skip
        assert "localhost/zeropod:dev" in images.split()
        self.kubectl("apply", "-f", "-", stdin=json.dumps(POD))
        self.kubectl("expose", "pod", "web", "--port", "80")
        self.kubectl("wait", "--for=condition=Ready", "pod/web", "--timeout=120s")
        assert self.fetch() == "ok\n"
        first = self.facts()["pid"]

        dev_cluster("stop", "--name", self.name, "--keep")
        dev_cluster("start", "--name", self.name)
        assert self.facts()["pid"] != first
        assert footprint.until(lambda: self.restarts() == 1, 120)
        self.kubectl("wait", "--for=condition=Ready", "pod/web", "--timeout=120s")
        assert self.fetch() == "ok\n"

        spaces = footprint.namespaces(self.facts()["pid"]) - footprint.own()
        known = footprint.ours(self.name, spaces)
        assert len(known) > 8
        dev_cluster("stop", "--name", self.name)
        assert not (left := footprint.left(self.name, self.before, spaces, known)), left
        assert not self.node().state.exists()


if __name__ == "__main__":
    unittest.main()
