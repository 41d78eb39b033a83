"""One program's side of NRI: handshake, events, and starting over for ever.

Knows the protocol and its traps (of versions 0.6 to 0.12), not what the events are good for.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import pathlib
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

from nri_plugin import api, mux
from ttrpc import client, errors, messages, server, streams

_log = logging.getLogger(__name__)

REGISTER_TIMEOUT = 60.0
"""Seconds. The runtime registers one plugin after the other, and a silent one costs it 5 s."""

OVERRUN = 0.9
"""Share of a request's time-out past which the runtime may have given us up. Its clock started
before ours, and NRI 0.6 leaves the socket open after a slow Synchronize but sends no events any
more; the way out is a new connection."""

SETTLED = 10.0
"""Seconds; a connection that lasted longer was a good one, and the next try comes quickly."""

BACKOFF_FIRST = 0.25
BACKOFF_LAST = 5.0
"""Seconds between tries: a restarted runtime is back soon, but each registration makes it wait
for operations under way (containerd issue 14083), so not in a tight loop."""


class RejectedError(Exception):
    """Raised by a handler whose event shall fail, with the text for the user.

    Only StartContainer makes sense: containerd leaks sandboxes whose RunPodSandbox fails.
    """


@dataclass(frozen=True, slots=True)
class Runtime:
    """Who is at the other end, from Configure."""

    name: str
    version: str
    nri: str


EventHandler: TypeAlias = Callable[[Any, Any], Awaitable[None]]
"""Takes an api.PodSandbox and, for events of containers, an api.Container."""


class Plugin(Protocol):
    """What the stub drives. Handlers may raise; except for `RejectedError` that only makes a log."""

    @property
    def handlers(self) -> Mapping[api.Event, EventHandler]:
        """The events that are wanted."""
        ...

    def configured(self, runtime: Runtime) -> None:
        """The runtime has introduced itself."""
        ...

    def synchronized(self, pods: Sequence[Any], containers: Sequence[Any]) -> None:
        """All there is at the moment; replaces whatever was known. Events follow."""
        ...


class Connection:
    """One connection to the runtime, from the handshake to its end."""

    def __init__(self, socket: streams.Stream, plugin: Plugin, *, name: str, index: str) -> None:
        self._mux = mux.Mux(socket)
        self._plugin = plugin
        self._register = api.RegisterPluginRequest(
            plugin_name=name, plugin_idx=index, NRI_version=api.VERSION
        )
        self._pods: list[Any] = []
        self._containers: list[Any] = []

    async def run(self) -> None:
        """Register and serve until the connection ends.

        Raises:
            TtrpcError: the runtime refused us, or did not answer.
        """
        server_side = server.Connection(self._mux.plugin, self._services())
        async with _tasks(self._mux.run(), server_side.serve()) as running:
            # The runtime may call Configure before it answers this.
            runtime = client.Client(self._mux.runtime)
            try:
                await runtime.call(
                    api.RUNTIME_SERVICE,
                    "RegisterPlugin",
                    self._register,
                    api.Empty,
                    timeout=REGISTER_TIMEOUT,
                )
                _log.info("nri.registered")
                await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            finally:
                # A refused plugin is left with an open socket.
                await runtime.close()

    def _services(self) -> server.Services:
        services = server.Services()

        def offer(method: str, request: messages.MessageClass, handler: server.Handler) -> None:
            guarded = self._guard(method, handler)
            services.add(api.PLUGIN_SERVICE, method, request, guarded)

        offer("Configure", api.ConfigureRequest, self._configure)
        offer("Synchronize", api.SynchronizeRequest, self._synchronize)
        offer("Shutdown", api.Empty, _nothing)
        # Up to 0.11 most events come as StateChange; 0.12 falls back to it for all of them as
        # soon as one method is missing.
        offer("StateChange", api.StateChangeEvent, self._state_change)
        for event in api.Event:
            offer(event.method, api.EventRequest, self._event_handler(event))
        return services

    def _guard(self, method: str, handler: server.Handler) -> server.Handler:
        """Wrap `handler` so that it fails open and a late answer ends the connection."""

        async def guarded(request: Any, context: server.Context) -> messages.Message:
            try:
                return await handler(request, context)
            except RejectedError as rejected:
                raise errors.TtrpcError(errors.Code.UNKNOWN, str(rejected)) from rejected
            except Exception:  # noqa: BLE001 - whatever it is, it is our mistake alone
                # A status would make the runtime fail the pod for our mistake.
                _log.exception("nri.handler_failed", extra={"method": method})
                return api.Empty()
            finally:
                await self._close_if_overrun(method, context)

        return guarded

    async def _close_if_overrun(self, method: str, context: server.Context) -> None:
        if context.timeout is None:
            return
        elapsed = time.monotonic() - context.received
        if elapsed > context.timeout * OVERRUN:
            _log.error("nri.overrun", extra={"method": method, "ms": elapsed * 1e3})
            await self._mux.plugin.close()

    async def _configure(self, request: Any, _: server.Context) -> messages.Message:
        runtime = Runtime(request.runtime_name, request.runtime_version, request.NRI_version)
        asyncio.get_running_loop().call_soon(self._plugin.configured, runtime)
        # Never 0, which means all events, and no bit that an older runtime does not know.
        return api.ConfigureResponse(events=sum(event.bit for event in self._plugin.handlers))

    async def _synchronize(self, request: Any, _: server.Context) -> messages.Message:
        self._pods.extend(request.pods)
        self._containers.extend(request.containers)
        if not request.more:
            pods, containers = self._pods, self._containers
            self._pods, self._containers = [], []
            # Answered first: the runtime waits, and a mistake of ours is none of its business.
            # What is called soon still runs before the next event is read.
            loop = asyncio.get_running_loop()
            loop.call_soon(self._plugin.synchronized, pods, containers)
        return api.SynchronizeResponse(more=request.more)

    async def _state_change(self, request: Any, _: server.Context) -> messages.Message:
        # Events from the future are none of ours.
        handler = self._plugin.handlers.get(request.event)
        if handler is not None:
            await handler(request.pod, request.container)
        return api.Empty()

    def _event_handler(self, event: api.Event) -> server.Handler:
        async def handle(request: Any, _: server.Context) -> messages.Message:
            handler = self._plugin.handlers.get(event)
            if handler is not None:
                await handler(request.pod, request.container)
            return api.Empty()

        return handle


async def run_forever(plugin: Plugin, path: pathlib.Path, *, name: str, index: str) -> None:
    """Keep `plugin` connected to the runtime at the socket `path`; ends only when cancelled."""
    delay = BACKOFF_FIRST
    reported = ""
    while True:
        started = time.monotonic()
        try:
            socket = await streams.connect_unix(path)
            reported = ""
            await Connection(socket, plugin, name=name, index=index).run()
            _log.warning("nri.disconnected")
        except errors.TtrpcError as error:
            if str(error) != reported:  # once, not at every try while the runtime is away
                _log.warning("nri.unavailable", extra={"reason": str(error)})
                reported = str(error)
        if time.monotonic() - started > SETTLED:
            delay = BACKOFF_FIRST
        # Jitter, so that plugins that lost their runtime together do not come back together.
        await asyncio.sleep(delay * random.uniform(0.75, 1.25))  # noqa: S311 - not for secrecy
        delay = min(delay * 2, BACKOFF_LAST)


async def _nothing(_request: object, _context: server.Context) -> messages.Message:
    return api.Empty()


@contextlib.asynccontextmanager
async def _tasks(*works: Any) -> AsyncIterator[list[asyncio.Task[None]]]:
    """Run coroutines beside the body and end them with it."""
    running = [asyncio.create_task(work) for work in works]
    try:
        yield running
    finally:
        for task in running:
            task.cancel()
        await asyncio.wait(running)
