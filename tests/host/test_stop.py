"""A node that has been stopped leaves nothing on the machine. Standard library only: runs on the host."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import unittest
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY))

from dev.lib import footprint  # noqa: E402
from dev.lib.cache import Cache, default_root  # noqa: E402
from dev.lib.node import Node  # noqa: E402

DEV_NODE = str(REPOSITORY / "dev/node")


def dev_node(*words: str) -> str:
    """Runs dev/node and returns what it printed."""
    done = subprocess.run([sys.executable, DEV_NODE, *words], capture_output=True, stdin=subprocess.DEVNULL, text=True, check=False)  # fmt: skip
    if done.returncode:
        msg = "dev/node {}: {}".format(" ".join(words), done.stderr)
        raise AssertionError(msg)
    return done.stdout


class Stop(unittest.TestCase):
    """What is there before a start and after a stop."""

    def setUp(self) -> None:
        self.name = f"leak-{os.getpid()}"
        self.addCleanup(dev_node, "stop", "--name", self.name)
        self.before = footprint.machine(self.name)

    def facts(self) -> dict[str, Any]:
        self.node = Node(Cache(), self.name)
        facts = self.node.facts()
        assert facts is not None
        return facts

    def check_nothing_left(self, spaces: set[str], known: set[tuple[int, str]]) -> None:
        """No process in the node's namespaces, none of its processes, and the machine as it was."""
        assert not (left := footprint.left(self.name, self.before, spaces, known)), left
        assert not self.node.state.exists()

    def test_nothing_is_left_after_a_pod_has_run(self) -> None:
        """A node with a running pod, stopped, leaves no mount, interface, process, cgroup or pin."""
        dev_node("start", "--name", self.name)
        dev_node("pod", "--name", self.name, "run", "localhost/redis:1", "--annotation",
                 "zeropod.ctrox.dev/scaledown-duration=1s")  # fmt: skip
        time.sleep(3)
        spaces = footprint.namespaces(self.facts()["pid"]) - footprint.own()
        assert len(spaces) == len(footprint.KINDS)
        known = footprint.ours(self.name, spaces)
        assert len(known) > 4
        dev_node("stop", "--name", self.name)
        self.check_nothing_left(spaces, known)

    def test_start_is_idempotent(self) -> None:
        """A second one changes nothing."""
        dev_node("start", "--name", self.name)
        first = self.facts()
        dev_node("start", "--name", self.name)
        assert self.facts() == first
        dev_node("stop", "--name", self.name)

    def test_interrupted_start_is_cleaned_up(self) -> None:
        """A start that is killed half-way leaves something that a stop removes and a start replaces."""
        dev_node("start", "--name", self.name)
        dev_node("stop", "--name", self.name)
        started = subprocess.Popen([sys.executable, DEV_NODE, "start", "--name", self.name],
                                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # fmt: skip
        note = default_root() / "nodes" / self.name / "node.json"
        assert footprint.until(
            lambda: note.exists() and json.loads(note.read_text())["pid"] > 0, 20
        )
        started.send_signal(signal.SIGKILL)
        started.wait()
        spaces = footprint.namespaces(self.facts()["pid"]) - footprint.own()
        known = footprint.ours(self.name, spaces)
        dev_node("stop", "--name", self.name)
        self.check_nothing_left(spaces, known)


if __name__ == "__main__":
    unittest.main()
