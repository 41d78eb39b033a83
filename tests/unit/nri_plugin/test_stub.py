"""Handshake, events and new beginnings, against a scripted runtime."""

import asyncio
import contextlib
import random
import socket
import time

import pytest
from fakes import nri_runtime

from nri_plugin import api, mux, stub
from ttrpc import client, envelope, errors, frames, messages, streams


class Recorder:
    """A plugin that notes what it is told."""

    def __init__(self):
        self.told = []
        self.act = None
        self.runtime = None

    @property
    def handlers(self):
        events = (
            api.Event.REMOVE_POD_SANDBOX,
            api.Event.POST_CREATE_CONTAINER,
            api.Event.START_CONTAINER,
            api.Event.STOP_CONTAINER,
        )
        return {event: self.handler(event) for event in events}

    def handler(self, event):
        async def handle(pod, container):
            self.told.append((event, pod.id, container.id))
            if self.act is not None:
                await self.act()

        return handle

    def configured(self, runtime):
        self.runtime = runtime

    def synchronized(self, pods, containers):
        self.told.append(("sync", len(pods), len(containers)))


@contextlib.asynccontextmanager
async def connection():
    plugin = Recorder()
    ours, theirs = socket.socketpair()
    stream = streams.SocketStream(*await asyncio.open_connection(sock=theirs))
    link = stub.Connection(stream, plugin, name="zeropod", index="90")
    running = asyncio.create_task(link.run())
    runtime = nri_runtime.Runtime(*await asyncio.open_connection(sock=ours))
    yield plugin, runtime, running
    await runtime.close()
    running.cancel()
    await asyncio.wait([running])


def pod_and_container(**fields):
    fields.setdefault("id", "c1")
    return {"pod": api.PodSandbox(id="p1"), "container": api.Container(**fields)}


async def test_the_handshake_of_every_version():
    """Name and index go out, the mask comes back, everything there is is taken in."""
    async with connection() as (plugin, runtime, _):
        stream, request = await runtime.registration()
        assert (request.plugin_name, request.plugin_idx) == ("zeropod", "90")
        runtime.accept(stream)
        configure = api.ConfigureRequest(
            runtime_name="containerd", runtime_version="2.3.4", NRI_version="0.12.0"
        )
        reply = await runtime.call("Configure", configure, api.ConfigureResponse)
        # Bits 3, 5, 6 and 10; never 0, which would mean all events, and none beyond 11.
        assert reply.events == 0b010_0011_0100
        everything = api.SynchronizeRequest(pods=[api.PodSandbox(id="p")])
        assert not (await runtime.call("Synchronize", everything, api.SynchronizeResponse)).more
        assert plugin.runtime == stub.Runtime("containerd", "2.3.4", "0.12.0")
        assert plugin.told == [("sync", 1, 0)]


async def test_configure_may_overtake_the_registrations_answer():
    """The runtime calls Configure before it answers RegisterPlugin."""
    async with connection() as (_, runtime, _):
        stream, _ = await runtime.registration()
        configure = api.ConfigureRequest(runtime_name="containerd")
        assert (await runtime.call("Configure", configure, api.ConfigureResponse)).events
        runtime.accept(stream)
        await runtime.call("Synchronize", api.SynchronizeRequest(), api.SynchronizeResponse)


async def test_a_refused_registration_ends_the_connection():
    """The runtime leaves the socket open and would never call again; we must hang up."""
    async with connection() as (_, runtime, running):
        stream, _ = await runtime.registration()
        runtime.refuse(stream, "invalid plugin index")
        with pytest.raises(errors.TtrpcError, match="invalid plugin index"):
            await asyncio.wait_for(running, 30)
        await runtime.ended()


async def test_split_synchronize():
    """Parts are echoed with more=true and taken together with the last one."""
    async with connection() as (plugin, runtime, _):
        await runtime.handshake()
        for more in (True, True, False):
            part = api.SynchronizeRequest(
                pods=[api.PodSandbox(id="p")] * 2, containers=[api.Container()], more=more
            )
            reply = await runtime.call("Synchronize", part, api.SynchronizeResponse)
            assert reply.more is more
        assert plugin.told[-1] == ("sync", 6, 3)


@pytest.mark.parametrize("cut", [None, 4096, 1_000_000])
async def test_eight_megabytes_of_synchronize(cut):
    """NRI 0.6 sends over its own limit: a first frame and one of 8 MB, or however it is cut."""
    async with connection() as (plugin, runtime, _):
        await runtime.handshake()
        large = [api.Container(id=str(n), args=["x" * 80_000]) for n in range(100)]
        request = api.SynchronizeRequest(containers=large)
        reply = await runtime.call("Synchronize", request, api.SynchronizeResponse, cut=cut)
        assert reply is not None
        assert plugin.told[-1] == ("sync", 0, 100)


async def test_both_styles_of_events():
    """Up to 0.11 most events are StateChanges, from 0.12 on each has its method."""
    async with connection() as (plugin, runtime, _):
        await runtime.handshake()
        plugin.told.clear()
        both = pod_and_container()
        change = api.StateChangeEvent(event=api.Event.START_CONTAINER, **both)
        await runtime.call("StateChange", change)
        await runtime.call("StartContainer", api.EventRequest(**both))
        assert plugin.told == [(api.Event.START_CONTAINER, "p1", "c1")] * 2


async def test_every_event_is_answered():
    """Those not asked for, and one from the future, get an empty reply: no status, no silence."""
    async with connection() as (_, runtime, _):
        await runtime.handshake()
        for event in api.Event:
            assert await runtime.call(event.method, api.EventRequest()) == api.Empty()
        for number in (0, 12, 99):
            change = api.StateChangeEvent(event=number)
            assert await runtime.call("StateChange", change) == api.Empty()


async def test_unknown_methods_are_unimplemented():
    """Status 12 is what NRI 0.12 falls back on."""
    async with connection() as (_, runtime, _):
        await runtime.handshake()
        with pytest.raises(errors.TtrpcError) as caught:
            await runtime.call("ValidateContainerAdjustment", api.Empty())
        assert caught.value.code is errors.Code.UNIMPLEMENTED


async def test_requests_of_any_cut_are_served():
    """Events that arrive seven bytes at a time, both streams taking turns."""
    async with connection() as (plugin, runtime, _):
        stream, _ = await runtime.registration()
        configure = api.ConfigureRequest(runtime_name="containerd")
        call, message = runtime.request("Configure", configure)
        accept = frames.encode(stream, frames.Kind.RESPONSE, b"")
        for start in range(0, max(len(message), len(accept)), 7):
            for number, whole in ((mux.PLUGIN, message), (mux.RUNTIME, accept)):
                if whole[start : start + 7]:
                    runtime.send(number, whole[start : start + 7])
            await asyncio.sleep(0)
        assert (await runtime.answer(call, api.ConfigureResponse)).events
        assert plugin.runtime.name == "containerd"


async def test_a_long_reply_survives_gos_receiver():
    """A status of more than 4 KiB is split in the one way that Go can read."""
    async with connection() as (plugin, runtime, _):
        await runtime.handshake()

        async def reject():
            raise stub.RejectedError("x" * 50_000)

        plugin.act = reject
        with pytest.raises(errors.TtrpcError, match=r"x{50000}"):
            await runtime.call("StartContainer", api.EventRequest(**pod_and_container()))
        assert runtime.broken is None


async def test_a_handlers_mistake_is_not_the_pods():
    """An exception is logged and answered with success; only a rejection is a status."""
    async with connection() as (plugin, runtime, _):
        await runtime.handshake()

        async def fail():
            raise ZeroDivisionError

        plugin.act = fail
        request = api.EventRequest(**pod_and_container())
        assert await runtime.call("StartContainer", request) == api.Empty()

        async def reject():
            raise stub.RejectedError("no such program")

        plugin.act = reject
        with pytest.raises(errors.TtrpcError, match="no such program") as caught:
            await runtime.call("StartContainer", request)
        assert caught.value.code is errors.Code.UNKNOWN


@pytest.mark.parametrize("blocking", [True, False])
async def test_an_overrun_ends_the_connection(blocking):
    """A request that took its whole time-out: NRI has dropped us and may not have said so."""
    async with connection() as (plugin, runtime, running):
        await runtime.handshake()

        async def dawdle():
            if blocking:
                time.sleep(0.11)
            else:
                await asyncio.sleep(5)

        plugin.act = dawdle
        _, message = runtime.request(
            "StartContainer", api.EventRequest(**pod_and_container()), timeout=0.1
        )
        runtime.send(mux.PLUGIN, message)
        await asyncio.wait_for(asyncio.wait([running]), 30)
        await runtime.ended()


@pytest.mark.parametrize("seed", range(20))
async def test_garbage_ends_the_connection_at_worst(seed):
    """Random bytes from the socket never hang or crash the plugin."""
    async with connection() as (_, runtime, running):
        await runtime.registration()
        source = random.Random(seed)
        junk = source.randbytes(30_000)
        if seed % 2:
            junk = b"".join(mux.encode(1 + n % 2, source.randbytes(100)) for n in range(100))
        runtime.writer.write(junk)
        runtime.writer.write_eof()
        await asyncio.wait_for(asyncio.wait([running]), 30)


async def test_it_comes_back_for_ever(tmp_path):
    """No socket, a dead one, a runtime that hangs up: the next one is found and synchronised."""
    plugin = Recorder()
    path = tmp_path / "nri.sock"
    running = asyncio.create_task(stub.run_forever(plugin, path, name="zeropod", index="90"))
    await asyncio.sleep(0.1)
    accepted = asyncio.Queue()
    for attempt in range(3):
        server = await asyncio.start_unix_server(lambda *pair: accepted.put_nowait(pair), path)
        runtime = nri_runtime.Runtime(*await asyncio.wait_for(accepted.get(), 30))
        await runtime.handshake(containers=[api.Container()] * attempt)
        assert plugin.told[-1] == ("sync", 0, attempt)
        server.close()
        await runtime.close()
        path.unlink(missing_ok=True)
    running.cancel()
    await asyncio.wait([running])


async def test_calls_of_ours_carry_odd_rising_ids():
    """The runtime's side of ttRPC refuses anything else."""
    ours, theirs = socket.socketpair()
    muxed = mux.Mux(streams.SocketStream(*await asyncio.open_connection(sock=theirs)))
    running = asyncio.create_task(muxed.run())
    runtime = nri_runtime.Runtime(*await asyncio.open_connection(sock=ours))
    caller = client.Client(muxed.runtime)
    calls = [
        asyncio.create_task(caller.call(api.RUNTIME_SERVICE, "X", api.Empty(), api.Empty))
        for _ in range(5)
    ]
    ids = [(await runtime.inbox[mux.RUNTIME].get()).stream for _ in calls]
    assert ids == [1, 3, 5, 7, 9]
    for stream in reversed(ids):
        runtime.send(
            mux.RUNTIME, frames.encode(stream, frames.Kind.RESPONSE, envelope.pack_response(b""))
        )
    assert [messages.encode(reply) for reply in await asyncio.gather(*calls)] == [b""] * 5
    await runtime.close()
    await caller.close()
    await running
