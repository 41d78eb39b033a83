"""The plugin and containerd are killed: what sleeps sleeps on, and what comes later is managed."""

from __future__ import annotations

import time
from pathlib import Path

import grpc
import pytest
from node import sleepers
from node.crashes import Pods, kill
from node.plugins import Plugin

from dev import cri

# --- the plugin and containerd ----------------------------------------------------------------------------------------


@pytest.mark.both
def test_plugin_killed(pods: Pods, plugin: Plugin) -> None:
    """The plugin killed with a pod asleep: it sleeps on and wakes, and a new pod is managed by the next plugin."""
    one = sleepers.python(pods)
    one.ask("memory.update(a=1)")
    one.sleep()
    plugin.away()
    assert one.state == "ASLEEP"
    assert one.ask("memory['a']") == 1
    plugin.back()  # a pod that starts before is not managed
    two = sleepers.python(pods)
    assert two.sleep()["state"] == "ASLEEP"
    assert {found["id"] for found in sleepers.call("List")} == {one.container.id, two.container.id}


@pytest.mark.both
@pytest.mark.timeout(120)
def test_containerd_killed(pods: Pods, tmp_path: Path, runtime: cri.Runtime) -> None:
    """Containerd killed with a pod asleep: it is Running for the next one, wakes, sleeps, and stops as it should."""
    mount = {"container_path": "/data", "host_path": str(tmp_path)}
    setup = "signal.signal(signal.SIGTERM, lambda *_: os._exit(4))"
    one = sleepers.python(pods, setup, mounts=[mount])
    one.ask("memory.update(a=1)")
    one.sleep()
    kill(sleepers.service_pid("containerd"))

    def answers() -> bool:
        try:
            return bool(runtime.call("Version", deadline=2).name)
        except grpc.RpcError:
            return False

    time.sleep(0.3)
    cri.until(answers, 30)
    one.unharmed()
    assert one.state == "ASLEEP"
    assert one.ask("memory['a']") == 1
    assert one.container.exec(["true"]).code == 0
    one.reach("RUNNING")
    one.sleep()
    one.unharmed()
    assert one.container.stop(20).exit_code == 4
