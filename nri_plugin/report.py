"""Keeps the daemon informed; never in the way of a handler.

The daemon may be away at any time. Nothing is queued for it but the ids of what has changed: each
report carries the state of that moment, and every new connection begins with all there is.
"""

from __future__ import annotations

import asyncio
import logging
import pathlib
import random
from collections.abc import Sequence

from nri_plugin import registry
from ttrpc import client, errors, messages

_log = logging.getLogger(__name__)

SERVICE = "zeropod.v1.Node"
METHOD = "Report"

TIMEOUT = 10.0
"""Seconds for one report; a daemon that takes longer is asked anew on a new connection."""

BACKOFF_FIRST = 0.1
BACKOFF_LAST = 2.0
"""Seconds between tries to reach the daemon; its restart is noticed soon, for little work."""

LARGEST = 1 << 20
"""Bytes of containers in one report, which must stay below ttRPC's 4 MiB. What a pod's owner can put
into one container's is bounded (`wishes`), not how many containers there are."""

# The daemon declares the same table: neither package may import the other.
TABLE: messages.Table = {
    "Empty": [],
    "Policy": [  # of one container; the daemon parses no annotation
        (1, "scaledown", "optional double"),  # seconds; 0 = never
        (2, "connections", "optional string"),  # keep | wait | close
        (3, "disable_checkpointing", "optional bool"),
        (4, "dry_run", "optional bool"),
        (5, "wake_on_stop", "optional bool"),
        (6, "on_failure", "optional string"),  # stay | freeze
        (7, "cpu_threshold", "optional double"),  # cores; 0 = not looked at
        (8, "max_request", "optional double"),  # seconds
        (9, "min_awake", "optional double"),  # seconds
        (10, "max_image_size", "optional int64"),  # bytes; 0 = no limit
        (11, "ignore_from", "repeated string"),  # CIDRs
        (12, "ignore_ports", "repeated uint32"),
        (13, "ports", "repeated string"),  # "tcp/80"; none = discover
        (14, "pre_dump", "optional bool"),
        (15, "lazy_restore", "optional string"),  # auto | true | false
        (16, "probe_detection", "optional bool"),
        (17, "portless", "optional bool"),
        (18, "notes", "repeated string"),
        (19, "wishes", "repeated string"),  # as written, where not the default
        (20, "names", "repeated string"),  # of containers, in any annotation
        (21, "io_uring", "optional bool"),
    ],
    "Container": [
        (1, "id", "string"),
        (2, "sandbox_id", "string"),
        (3, "name", "string"),
        (4, "pod", "string"),
        (5, "namespace", "string"),
        (6, "uid", "string"),
        (7, "runtime_handler", "string"),
        (8, "pid", "int32"),
        (9, "state", "string"),
        (10, "managed", "bool"),
        (11, "reason", "string"),
        (13, "policy", "Policy"),  # 12 was the annotations as written
        (14, "kind", "string"),  # of `reason`
    ],
    "ReportRequest": [
        (1, "containers", "repeated Container"),
        (2, "complete", "bool"),
        (3, "removed", "repeated string"),
        (4, "present", "repeated string"),  # if complete: all ids, in this request or before
    ],
}

_api = messages.schema("zeropod.v1", TABLE)


class Reporter:
    """Reports a registry to the daemon."""

    def __init__(
        self, containers: registry.Registry, socket: pathlib.Path, complete: asyncio.Event
    ) -> None:
        """Listen to `containers`.

        Args:
            containers: what to report.
            socket: where the daemon listens.
            complete: set once the runtime has told us everything. A complete report before that
                would make the daemon forget containers.
        """
        self._containers = containers
        self._socket = socket
        self._changed: set[str] = set()
        self._wake = asyncio.Event()
        self._complete = complete
        containers.listen(self._note)

    async def run(self) -> None:
        """Report for ever, over as many connections as it takes."""
        await self._complete.wait()
        delay = BACKOFF_FIRST
        reachable: bool | None = None
        while True:
            try:
                daemon = await client.connect_unix(self._socket)
                try:
                    await self._report_all(daemon)
                    _log.info("daemon.connected")
                    reachable, delay = True, BACKOFF_FIRST
                    await self._report_changes(daemon)
                finally:
                    await daemon.close()
            except errors.TtrpcError as error:
                if reachable is not False:
                    _log.warning("daemon.unavailable", extra={"reason": str(error)})
                reachable = False
            await asyncio.sleep(delay * random.uniform(0.75, 1.25))  # noqa: S311 - not for secrecy
            delay = min(delay * 2, BACKOFF_LAST)

    async def _report_all(self, daemon: client.Client) -> None:
        self._changed.clear()
        known = list(self._containers)
        *before, last = _parts([_message(container) for container in known])
        for part in before:
            await self._send(daemon, _api.ReportRequest(containers=part))
        present = [container.id for container in known]
        request = _api.ReportRequest(containers=last, complete=True, present=present)
        await self._send(daemon, request)

    async def _report_changes(self, daemon: client.Client) -> None:
        closed = asyncio.create_task(daemon.wait_closed())
        try:
            while not closed.done():
                self._wake.clear()
                if self._changed:
                    await self._report_taken(daemon)
                    continue
                waiting = asyncio.create_task(self._wake.wait())
                await asyncio.wait([waiting, closed], return_when=asyncio.FIRST_COMPLETED)
                waiting.cancel()
        finally:
            closed.cancel()
        raise errors.closed("the daemon ended the connection")

    async def _report_taken(self, daemon: client.Client) -> None:
        changed, self._changed = self._changed, set()
        known = {container_id: self._containers.get(container_id) for container_id in changed}
        removed = [container_id for container_id, container in known.items() if not container]
        for part in _parts([_message(container) for container in known.values() if container]):
            await self._send(daemon, _api.ReportRequest(containers=part, removed=removed))
            removed = []

    async def _send(self, daemon: client.Client, request: messages.Message) -> None:
        await daemon.call(SERVICE, METHOD, request, _api.Empty, timeout=TIMEOUT)

    def _note(self, container_id: str) -> None:
        self._changed.add(container_id)
        self._wake.set()


def _message(container: registry.Container) -> messages.Message:
    message: messages.Message = _api.Container(
        id=container.id,
        sandbox_id=container.sandbox_id,
        name=container.name,
        pod=container.pod,
        namespace=container.namespace,
        uid=container.uid,
        runtime_handler=container.runtime_handler,
        pid=container.pid,
        state=container.state.name.lower(),
        managed=container.managed,
        reason=container.reason,
        kind=container.reason.kind,
        policy=_api.Policy(**container.policy),
    )
    return message


def _parts(containers: Sequence[messages.Message]) -> list[list[messages.Message]]:
    """Cut a list into at least one of at most `LARGEST` bytes each."""
    parts: list[list[messages.Message]] = [[]]
    size = 0
    for message in containers:
        more = message.ByteSize()
        if parts[-1] and size + more > LARGEST:
            parts.append([])
            size = 0
        parts[-1].append(message)
        size += more
    return parts
