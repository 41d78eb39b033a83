"""Installing: one overlay, one label, and what was there before goes on."""

from __future__ import annotations

from e2e import kubectl, nodes, product
from e2e.apps import App


def test_installing_restarts_no_container(bystander: App, zeropod: None) -> None:
    """A container from before is not restarted, and is not managed: it would have to be started again for that."""
    assert bystander.restarts() == 0
    assert bystander.states() == {"web": "UNMANAGED"}


def test_every_labelled_node_has_it(zeropod: None) -> None:
    """Each node runs one pod, called as the README calls it, with installer, plugin and daemon."""
    found = {one["spec"]["nodeName"]: one for one in product.pods()}
    assert sorted(found) == sorted(nodes.names())
    for one in found.values():
        assert one["metadata"]["name"].startswith("zeropod-node-")
        assert [item["name"] for item in one["spec"]["initContainers"]] == ["installer"]
        assert {item["name"] for item in one["spec"]["containers"]} == {
            "nri-plugin",
            "checkpointer",
        }


def test_applying_it_again_changes_nothing(zeropod: None) -> None:
    """The manifests are what the API has: no pod of ours is replaced."""
    before = {one["metadata"]["uid"] for one in product.pods()}
    kubectl.run("apply", "-k", product.OVERLAY)
    product.rolled_out()
    assert {one["metadata"]["uid"] for one in product.pods()} == before
