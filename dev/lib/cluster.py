"""What is done to a cluster from outside."""

from __future__ import annotations

from dev.lib import archive
from dev.lib.environment import Environment
from dev.lib.errors import DevError
from dev.lib.node import Node


def load(node: Node, environment: Environment) -> None:
    """Builds the product's image and imports it."""
    path = node.state / "log/zeropod.tar"
    archive.write(environment, path)
    words = ["ctr", "-n", "k8s.io", "images", "import", "/var/log/" + path.name]
    try:
        if node.call([*words, "--digests"]):
            raise DevError("cluster %s did not take the image" % node.name)
    finally:
        path.unlink()
