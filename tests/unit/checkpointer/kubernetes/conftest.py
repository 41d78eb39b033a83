"""A daemon, its Kubernetes side, and an API server to talk to."""

from __future__ import annotations

import pytest
from fakes.apiserver import ApiServer
from fakes.clusters import Cluster, Daemon
from kubernetes import client as official

from checkpointer.kubernetes.client import Client
from checkpointer.kubernetes.side import Side
from checkpointer.settings import Settings

ALL = {"status_labels": True, "status_events": True, "in_place_scaling": True}


@pytest.fixture
def server():
    """Something that speaks HTTP on the loopback."""
    found = ApiServer()
    with found.serving():
        yield found


@pytest.fixture
def cluster(server):
    """With one pod."""
    found = Cluster(server)
    found.put("web")
    return found


@pytest.fixture
def client(server):
    """Ours."""
    configuration = official.Configuration()
    configuration.host = server.url
    return Client(configuration)


@pytest.fixture
def daemon():
    """One that knows all there is."""
    return Daemon()


@pytest.fixture
async def begin(client, daemon):
    """Starts a side with some features; ended afterwards."""
    begun = []

    def start(**wanted):
        side = Side(Settings(node_name="node-1", **(wanted or ALL)), client)
        side.start(daemon)
        begun.append(side)
        return side

    yield start
    for side in begun:
        await side.close()
