"""The API's handlers: from messages to the node and back; nothing is decided here."""

from typing import Any

from checkpointer import api
from checkpointer.node import Node
from ttrpc import server

MOVE = 85.0
"""Seconds that Sleep and Wake wait for their container; the command line waits a little longer."""

TOLD = 30.0
"""Seconds for which a retirement waits for the Kubernetes API."""


def services(node: Node) -> server.Services:
    """All methods of `zeropod.v1.Node`."""

    async def report(request: Any, _: server.Context) -> Any:
        present = request.present if request.complete else None
        node.report(request.containers, request.removed, present)
        return api.m.Empty()

    async def status(_request: Any, _: server.Context) -> Any:
        return api.m.Status(
            version=api.version(),
            criu=node.engine.zygotes.bundle.version,
            plugin=node.plugin_connected(),
            since=node.since,
            counts=node.answers.counts(),
            image_bytes=node.engine.store.usage(),
            helpers={**node.engine.zygotes.pids(), **node.engine.datapath.helpers()},
            api=node.cluster.features(),
            api_pending=node.cluster.pending(),
        )

    async def list_(request: Any, _: server.Context) -> Any:
        return api.m.Infos(containers=node.answers.infos(request))

    async def why(request: Any, _: server.Context) -> Any:
        found = [
            api.m.Explanation(info=info, text=text)
            for info, text in node.answers.explanations(request)
        ]
        return api.m.Explanations(explanations=found)

    async def sleep(request: Any, _: server.Context) -> Any:
        return api.m.Infos(containers=await node.answers.move(request, sleep=True, timeout=MOVE))

    async def wake(request: Any, _: server.Context) -> Any:
        return api.m.Infos(containers=await node.answers.move(request, sleep=False, timeout=MOVE))

    async def retire(request: Any, _: server.Context) -> Any:
        infos = await node.retire(request.timeout)
        # Labels go, requests are given back.
        await node.cluster.caught_up(node, min(TOLD, request.timeout))
        return api.m.Infos(containers=infos)

    async def watch(request: Any, _: server.Context) -> Any:
        transitions, last = await node.history.after(request.after)
        return api.m.WatchResponse(transitions=transitions, last=last)

    offered = server.Services()
    for name, request, handler in (
        ("Report", api.m.ReportRequest, report),
        ("Status", api.m.Empty, status),
        ("List", api.m.Query, list_),
        ("Why", api.m.Query, why),
        ("Sleep", api.m.Query, sleep),
        ("Wake", api.m.Query, wake),
        ("Retire", api.m.RetireRequest, retire),
        ("Watch", api.m.WatchRequest, watch),
    ):
        offered.add(api.SERVICE, name, request, handler)
    return offered
