"""A daemon that only says what its containers do, and what there is to see of them at an API server."""

from __future__ import annotations

import asyncio
import time

from fakes.pods import pod

from checkpointer import api as messages
from checkpointer.history import History


class Daemon:
    """Stands in for `Node` and its `Answers`: what its side asks of them."""

    def __init__(self):
        self.answers = self
        self.history = History()
        self._infos = {}
        self.swept = True

    def infos(self, _query):
        return list(self._infos.values())

    def knows(self, name, state, *, id_="", **more):
        """What has been so for long."""
        id_ = id_ or f"id-{name}"
        who = {"id": id_, "uid": f"uid-{name}", "pod": name, "namespace": "default"}
        self._infos[id_] = messages.m.Info(**{**who, "container": "app", "state": state, **more})
        return self._infos[id_]

    def tells(self, name, before, state, **more):
        """What happens now."""
        self.history.add(self.knows(name, state, **more), before, time.time())

    def sleeps(self, name, **more):
        """From running to asleep."""
        self.tells(name, "SLEEPING", "ASLEEP", sleep_ms=12.0, **more)

    def wakes(self, name, **more):
        """And back."""
        self.tells(name, "WAKING", "RUNNING", wake_ms=9.0, wake_cause="tcp-connect", **more)


def described(name, *, requests=None, qos="Burstable", **more):
    """A pod as the API server has it."""
    resources = {"requests": {"cpu": "100m", "memory": "64Mi"} if requests is None else requests}
    thing = pod(name, containers=[{"name": "app", "resources": resources}], **more)
    thing["metadata"]["uid"] = f"uid-{name}"
    thing["status"]["qosClass"] = qos
    return thing


class Cluster:
    """The API server's view, for tests."""

    def __init__(self, server):
        self.server = server

    def put(self, name, **more):
        self.server.put("pods", described(name, **more))

    def pod(self, name="web"):
        return self.server.read("pods", "default", name)

    def label(self, name="web"):
        return self.pod(name)["metadata"]["labels"].get("status.zeropod.ctrox.dev/app")

    def requests(self, name="web"):
        return self.pod(name)["spec"]["containers"][0]["resources"]["requests"]

    def annotations(self, name="web"):
        return self.pod(name)["metadata"]["annotations"]

    def events(self):
        """Reason and count of each."""
        found = self.server.list("events", "default", {})["items"]
        return {event["reason"]: event for event in found}


async def until(condition, seconds=45.0):
    """Wait for a condition."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it has not come to that"
        await asyncio.sleep(0.01)


async def quiet(side, server):
    """Wait until nothing is under way any more; return how many requests there have been."""
    await until(lambda: side.view().pending == 0)
    await asyncio.sleep(0.2)
    await until(lambda: side.view().pending == 0)
    return len(server.requests)
