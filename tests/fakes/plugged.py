"""A plugin that is connected to a scripted runtime, and containerd's records in memory."""

import asyncio
import contextlib
import copy
import socket

from fakes import nri_runtime, specs

from nri_plugin import (
    api,
    breaker,
    containers,
    plugin,
    registry,
    settings,
    stub,
)
from ttrpc import streams

WANTED = {"zeropod.ctrox.dev/scaledown-duration": "5s"}


class Records:
    """containerd's Containers service, in memory."""

    def __init__(self):
        self.stored = {}
        self.written = []
        self.exit_codes = {}
        self.reading = self.most_reading = 0
        self.failure = None
        self.hang = False

    async def connect(self):
        pass

    async def exit_code(self, container_id):
        return self.exit_codes.get(container_id, 1)

    async def get(self, container_id):
        self.reading += 1
        self.most_reading = max(self.reading, self.most_reading)
        try:
            await asyncio.sleep(0)
            return await self._get(container_id)
        finally:
            self.reading -= 1

    async def _get(self, container_id):
        if self.hang:
            await asyncio.Event().wait()
        if self.failure is not None:
            raise self.failure
        return self.stored[container_id]

    async def put_spec(self, record, spec):
        self.written.append((record.id, spec))

    def close(self):
        pass

    def add(self, container_id, **process):
        spec = copy.deepcopy(specs.ORDINARY)
        spec["process"].update(process)
        self.stored[container_id] = containers.Record(
            container_id, "io.containerd.runc.v2", spec, "types.containerd.io/opencontainers"
        )
        return spec


class Node:
    """A plugin connected to a scripted runtime."""

    def __init__(self, runtime, records, known, handlers):
        self.runtime, self.records, self.known, self.plugin = runtime, records, known, handlers

    async def event(self, name, container_id="c1", *, annotations=None, handler="", **fields):
        fields.setdefault("name", "web")
        pod = api.PodSandbox(
            id="p1",
            name="pod",
            namespace="default",
            uid="u1",
            annotations=WANTED if annotations is None else annotations,
            runtime_handler=handler,
        )
        fields["annotations"] = fields.pop("annotations_of_spec", {})
        container = api.Container(id=container_id, pod_sandbox_id="p1", **fields)
        await self.runtime.call(name, api.EventRequest(pod=pod, container=container))

    async def until(self, **fields):
        async with asyncio.timeout(30):
            while not all(getattr(self.known.get("c1"), k) == v for k, v in fields.items()):
                await asyncio.sleep(0.005)


@contextlib.asynccontextmanager
async def connected(tmp_path, *, runtime_name="containerd", pods=(), listed=(), **options):
    (tmp_path / "init").write_text("")
    (tmp_path / "init").chmod(0o755)
    known, records = registry.Registry(), Records()
    config = settings.Settings(container_dir=tmp_path, state_dir=tmp_path / "state")
    handlers = plugin.Plugin(config, known, records, breaker.Breaker(), **options)
    ours, theirs = socket.socketpair()
    stream = streams.SocketStream(*await asyncio.open_connection(sock=theirs))
    link = stub.Connection(stream, handlers, name="zeropod", index="90")
    running = asyncio.create_task(link.run())
    runtime = nri_runtime.Runtime(*await asyncio.open_connection(sock=ours))
    stream, _ = await runtime.registration()
    runtime.accept(stream)
    configure = api.ConfigureRequest(runtime_name=runtime_name)
    await runtime.call("Configure", configure, api.ConfigureResponse)
    found = Node(runtime, records, known, handlers)
    for container in listed:
        records.add(container.id)
    everything = api.SynchronizeRequest(pods=pods, containers=listed)
    await runtime.call("Synchronize", everything, api.SynchronizeResponse)
    yield found
    await runtime.close()
    running.cancel()
    await asyncio.wait([running])
    await handlers.close()
