"""The API server's answers, and none."""

from __future__ import annotations

import threading

import pytest
from fakes.apiserver import ApiServer
from fakes.pods import sleeper

from dev import patience
from kubectl_zeropod.cluster import Cluster


@pytest.fixture
def mute(api):
    """A server that is asked to watch and says nothing, not even that it is over: a connection that a firewall dropped."""
    over = threading.Event()

    def silent(handler):
        return "watch=True" in handler.path and over.wait(60)

    api.trouble = silent
    yield api
    over.set()


def test_a_watch_is_begun_again_where_nothing_is_heard(mute: ApiServer, tmp_path):
    """Though nobody has ended it: what happens then is told."""
    mute.put("pods", sleeper("web", "RUNNING"))
    cluster = Cluster(str(mute.kubeconfig(tmp_path / "config")), call=3, watch=0)
    told = []

    def listen():
        for kind, pods in cluster.watch("default"):
            told.append((kind, len(pods)))
            if kind == "DELETED":
                return

    listener = threading.Thread(target=listen, daemon=True)
    listener.start()
    patience.until(lambda: mute.asked("watch=True") >= 2)
    mute.trouble = lambda _: False
    mute.drop("pods", "default", "web")
    patience.until(lambda: not listener.is_alive())
    cluster.close()

    assert told == [("LISTED", 1), ("DELETED", 1)]
