"""containerd's records of containers: read one, change its spec, ask how it ended.

A task is made from the record as it stands when the task is made, so a spec that is changed before
StartContainer is the one that runs. CRI itself changes records this way when resources change.

grpcio costs some 25 MB and 0.2 s, so it is imported by `connect`, in a thread.
"""

from __future__ import annotations

import asyncio
import functools
import json
import pathlib
import threading
from collections.abc import Callable, Mapping
from concurrent import futures
from dataclasses import dataclass
from typing import Any

from ttrpc import messages

TIMEOUT = 0.8
"""Seconds for one exchange. Two of them and our own work have to fit into NRI's 2 s."""

_SERVICE = "containerd.services.containers.v1"

_OPTIONS = (
    # Go's server refuses the escaped path that grpc would send as :authority.
    ("grpc.default_authority", "localhost"),
    # After a restart of containerd the first call must not wait for grpc's usual back-off.
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 200),
    # The spec of a container with many volumes exceeds nothing, but the default is 4 MB.
    ("grpc.max_receive_message_length", 64 << 20),
)

_NOBODY = "zeropod-nobody"
"""An id that no container has: asked for only to connect."""

# api/services/containers/v1/containers.proto of containerd; the same from 1.7 to 2.3.
_api = messages.schema(
    _SERVICE,
    {
        "Any": [(1, "type_url", "string"), (2, "value", "bytes")],
        "Runtime": [(1, "name", "string")],
        "Container": [(1, "id", "string"), (4, "runtime", "Runtime"), (5, "spec", "Any")],
        "FieldMask": [(1, "paths", "repeated string")],
        "GetContainerRequest": [(1, "id", "string")],
        "GetContainerResponse": [(1, "container", "Container")],
        "UpdateContainerRequest": [(1, "container", "Container"), (2, "update_mask", "FieldMask")],
        "UpdateContainerResponse": [],
    },
)


# k8s.io/cri-api, pkg/apis/runtime/v1/api.proto: stable.
_cri = messages.schema(
    "runtime.v1",
    {
        "ContainerStatusRequest": [(1, "container_id", "string")],
        "ContainerStatus": [(1, "id", "string"), (3, "state", "int32"), (7, "exit_code", "int32")],
        "ContainerStatusResponse": [(1, "status", "ContainerStatus")],
    },
)
_EXITED = 2  # of ContainerState


class ContainersError(Exception):
    """containerd did not do what it was asked; the text says why."""


@dataclass(frozen=True, slots=True)
class Record:
    """A stored container.

    Attributes:
        id: the container's.
        runtime: for example "io.containerd.runc.v2".
        spec: its OCI spec.
        type_url: of the spec, which has to be sent back.
    """

    id: str
    runtime: str
    spec: dict[str, Any]
    type_url: str


class Containers:
    """Client of containerd's Containers service."""

    def __init__(self, socket: pathlib.Path, namespace: str) -> None:
        self._socket = socket
        self._metadata = (("containerd-namespace", namespace),)
        # grpc's own threads answer; this one only waits, so that the event loop does not.
        self._executor = futures.ThreadPoolExecutor(4, thread_name_prefix="containerd")
        self._calls: Mapping[str, Callable[..., Any]] = {}
        self._channel: Any = None
        self._opening = threading.Lock()

    async def connect(self) -> None:
        """Load grpc and connect, so that the first container does not pay for it.

        Raises:
            ContainersError: grpcio is not installed, or containerd does not answer.
        """
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._executor, self._open)
        await self._call("Get", _api.GetContainerRequest(id=_NOBODY), missing_ok=True)

    async def get(self, container_id: str) -> Record:
        """Return a container's record.

        Raises:
            ContainersError: it is not there, or containerd does not answer.
        """
        request = _api.GetContainerRequest(id=container_id)
        found = (await self._call("Get", request)).container
        try:
            spec = json.loads(found.spec.value)
        except ValueError as error:
            problem = f"its stored spec is no JSON: {error}"
            raise ContainersError(problem) from error
        return Record(found.id, found.runtime.name, spec, found.spec.type_url)

    async def put_spec(self, record: Record, spec: dict[str, Any]) -> None:
        """Replace the spec of a container; all or nothing.

        Raises:
            ContainersError: containerd refused or does not answer; then either may be true.
        """
        value = _api.Any(type_url=record.type_url, value=json.dumps(spec).encode())
        request = _api.UpdateContainerRequest(
            container=_api.Container(id=record.id, spec=value),
            update_mask=_api.FieldMask(paths=["spec"]),
        )
        await self._call("Update", request)

    async def exit_code(self, container_id: str) -> int | None:
        """Return the status with which a container has ended, None if it has not or is not there any more.

        NRI tells it from 0.12 on only.

        Raises:
            ContainersError: containerd does not answer.
        """
        request = _cri.ContainerStatusRequest(container_id=container_id)
        answer = await self._call("ContainerStatus", request, missing_ok=True)
        if answer is None or answer.status.state != _EXITED:
            return None
        return int(answer.status.exit_code)

    def close(self) -> None:
        """End the channel; the client is of no use afterwards."""
        if self._channel is not None:
            self._channel.close()
        self._executor.shutdown(wait=False)

    async def _call(
        self, which: str, request: messages.Message, *, missing_ok: bool = False
    ) -> Any:
        loop = asyncio.get_running_loop()
        if not self._calls:
            await loop.run_in_executor(self._executor, self._open)
        exchange = functools.partial(self._exchange, which, request, missing_ok=missing_ok)
        return await loop.run_in_executor(self._executor, exchange)

    def _open(self) -> None:
        with self._opening:
            if not self._calls:
                self._calls = self._make_calls()

    def _make_calls(self) -> Mapping[str, Callable[..., Any]]:
        try:
            import grpc  # noqa: PLC0415 - late, see above
        except ImportError as error:
            problem = f"grpcio cannot be loaded ({error}); install python3-grpcio"
            raise ContainersError(problem) from error
        self._channel = grpc.insecure_channel(f"unix://{self._socket}", options=_OPTIONS)

        methods = {
            f"{_SERVICE}.Containers/Get": _api.GetContainerResponse,
            f"{_SERVICE}.Containers/Update": _api.UpdateContainerResponse,
            "runtime.v1.RuntimeService/ContainerStatus": _cri.ContainerStatusResponse,
        }
        return {
            path.rpartition("/")[2]: self._channel.unary_unary(
                f"/{path}", messages.encode, response.FromString
            )
            for path, response in methods.items()
        }

    def _exchange(self, which: str, request: messages.Message, *, missing_ok: bool) -> Any:
        import grpc  # noqa: PLC0415 - loaded by now

        if not self._calls:
            raise ContainersError("not connected")
        try:
            return self._calls[which](
                request, timeout=TIMEOUT, wait_for_ready=True, metadata=self._metadata
            )
        except grpc.RpcError as error:
            if missing_ok and error.code() is grpc.StatusCode.NOT_FOUND:
                return None
            code, details = error.code().name.lower(), error.details()
            problem = f"containerd at {self._socket}: {code}: {details}"
            raise ContainersError(problem) from error
