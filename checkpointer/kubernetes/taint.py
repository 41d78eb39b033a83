"""The startup taint: whoever registers a node may have it keep pods away until zeropod is there.

A pod that starts before the plugin runs unmanaged until it is restarted. The daemon knows when the plugin is there, since
it reports; the plugin itself must not wait for an API server.
"""

from __future__ import annotations

import dataclasses
import urllib.parse

from checkpointer.kubernetes.client import Client

KEY = "zeropod.ctrox.dev/not-ready"

AGAIN = 600.0
"""Seconds between looks: a node that is deleted and registers again has its taint again."""


@dataclasses.dataclass(frozen=True, slots=True)
class Taint:
    """Of one node."""

    node: str

    def take_off(self, client: Client) -> bool:
        """Take it off; say whether it was there.

        Raises:
            errors.ApiError: It was not done. A Conflict is tried again: somebody else has changed the node.
        """
        path = f"/api/v1/nodes/{urllib.parse.quote(self.node, safe='')}"
        node = client.request("GET", path, verb="get", resource="nodes")
        taints = (node.get("spec") or {}).get("taints") or []
        others = [taint for taint in taints if taint.get("key") != KEY]
        if len(others) == len(taints):
            return False
        # A list as a whole: the version sees to it that nobody's taint is lost in between.
        body = {
            "metadata": {"resourceVersion": node["metadata"]["resourceVersion"]},
            "spec": {"taints": others or None},
        }
        client.request(
            "PATCH",
            path,
            verb="patch",
            resource="nodes",
            body=body,
            content="application/merge-patch+json",
        )
        return True
