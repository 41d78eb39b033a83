"""The startup taint goes when the plugin is there, and nothing else goes with it."""

import pytest
from fakes.clusters import quiet, until

from checkpointer.kubernetes import errors
from checkpointer.kubernetes.taint import KEY, Taint

TAINT = {"startup_taint": True}
OTHER = {"key": "dedicated", "value": "gpu", "effect": "NoSchedule"}


@pytest.fixture
def node(server):
    """Registered with --register-with-taints."""

    def taints():
        return (server.read("nodes", "", "node-1").get("spec") or {}).get("taints") or []

    ours = {"key": KEY, "effect": "NoSchedule"}
    spec = {"taints": [ours, OTHER]}
    server.put("nodes", {"kind": "Node", "metadata": {"name": "node-1"}, "spec": spec})
    return taints


async def test_it_is_taken_off_when_the_plugin_has_reported(begin, daemon, node, server):
    """Not before: a pod that starts before the plugin is not managed. Others' taints stay."""
    daemon.swept = False
    side = begin(**TAINT)
    await quiet(side, server)
    assert len(node()) == 2

    daemon.swept = True
    await until(lambda: node() == [OTHER])


async def test_a_node_without_it_is_not_changed(begin, node, server):
    """One look is all."""
    server.put("nodes", {"kind": "Node", "metadata": {"name": "node-1"}, "spec": {}})
    side = begin(**TAINT)
    await until(lambda: server.asked("/nodes/node-1"))
    await quiet(side, server)

    assert [method for method, path in server.requests if "nodes" in path] == ["GET"]


async def test_a_right_that_is_missing_turns_it_off_and_says_so(begin, node, server):
    """With the ClusterRole that has it."""
    server.deny("patch", "nodes")
    side = begin(**TAINT)
    await until(lambda: side.features()["startup-taint"])

    assert "may not patch nodes" in side.features()["startup-taint"]
    assert "zeropod-startup-taint" in side.features()["startup-taint"]
    assert len(node()) == 2


async def test_without_its_flag_nobody_looks_at_the_node(begin, daemon, node, server):
    """Its rights are over all nodes."""
    side = begin(status_labels=True)
    await quiet(side, server)
    assert server.asked("/nodes") == 0


def test_a_taint_that_came_meanwhile_is_not_lost(client, node, server):
    """The list is written as a whole, and only over what was read."""
    read = client.request

    def slow(method, path, **more):
        found = read(method, path, **more)
        if method == "GET":
            now = server.read("nodes", "", "node-1")
            now["spec"]["taints"].append({"key": "late", "effect": "NoExecute"})
            server.put("nodes", now)
        return found

    client.request = slow
    with pytest.raises(errors.Conflict):
        Taint("node-1").take_off(client)
    assert len(node()) == 3
