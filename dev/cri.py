"""A client for the container runtime's CRI, as kubelet would use it: pods from a short description.

    with cri.Pod("web", annotations={"zeropod.ctrox.dev/scaledown-duration": "5s"}) as pod:
        redis = pod.run("localhost/redis:1")
        redis.exec(["redis-cli", "ping"])

Runs inside the node, from the checkout (`/src`). Needs grpcio.
"""

from __future__ import annotations

import json
import shutil
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Self

from dev import cgroups, patience
from dev.patience import until
from dev.runtime import Runtime
from dev.specs import ContainerSpec, PodSpec, resources

STATES = ("created", "running", "exited", "unknown")


class Result(NamedTuple):
    """What a program run by exec came to."""

    code: int
    out: str
    err: str


@dataclass(frozen=True)
class Status:
    """A container as the runtime sees it; times in nanoseconds since the epoch, 0 = never."""

    state: str
    """created, running, exited or unknown."""

    exit_code: int
    created_at: int
    started_at: int
    finished_at: int
    reason: str
    message: str
    attempt: int
    log_path: str
    info: Mapping[str, Any]
    """What containerd adds when asked to be verbose: pid, runtimeSpec and others."""


class Container:
    """A container of a pod."""

    def __init__(self, pod: Pod, identifier: str, name: str) -> None:
        self.pod = pod
        self.runtime = pod.runtime
        self.id = identifier
        self.name = name

    def start(self) -> Self:
        """Starts what `Pod.create` made."""
        self.runtime.call("StartContainer", container_id=self.id)
        return self

    def status(self) -> Status:
        """Asks the runtime."""
        answer = self.runtime.call("ContainerStatus", container_id=self.id, verbose=True)
        found = answer.status
        return Status(
            state=STATES[found.state],
            exit_code=found.exit_code,
            created_at=found.created_at,
            started_at=found.started_at,
            finished_at=found.finished_at,
            reason=found.reason,
            message=found.message,
            attempt=found.metadata.attempt,
            log_path=found.log_path,
            info=json.loads(answer.info.get("info", "{}")),
        )

    @property
    def state(self) -> str:
        """created, running, exited or unknown."""
        return self.status().state

    @property
    def pid(self) -> int:
        """The pid of its first process, in the node's PID namespace; 0 when it does not run."""
        return int(self.status().info.get("pid", 0))

    def wait(self, state: str = "exited", timeout: float = 30.0) -> Status:
        """Waits until it is in a state.

        Raises:
            TimeoutError: it is in another one.
        """
        found: list[Status] = []

        def reached() -> bool:
            found[:] = [self.status()]
            return found[0].state == state

        try:
            until(reached, timeout)
        except TimeoutError as error:
            message = f"{self.name} is {found[0].state} after {timeout} s, not {state}: {self.logs()[-1000:]}"
            raise TimeoutError(message) from error
        return found[0]

    def exec(self, command: Sequence[str], timeout: int = 60) -> Result:
        """Runs a program in it, like `kubectl exec` without a terminal."""
        limit = int(patience.seconds(timeout))
        answer = self.runtime.call(
            "ExecSync",
            container_id=self.id,
            cmd=list(command),
            timeout=limit,
            deadline=timeout + 10,
        )
        return Result(answer.exit_code, _text(answer.stdout), _text(answer.stderr))

    def logs(self, stream: str | None = None) -> str:
        """What it has written so far, both streams or one ("stdout", "stderr")."""
        found = []
        try:
            lines = (
                Path(self.status().log_path)
                .read_text(encoding="utf-8", errors="replace")
                .splitlines(True)
            )
        except OSError:
            return ""
        for line in lines:
            # 2026-01-31T12:00:00.000000000Z stdout F the text; P instead of F: the line goes on.
            _, source, tag, text = line.split(" ", 3)
            if stream in (None, source):
                found.append(text if tag == "F" else text.rstrip("\n"))
        return "".join(found)

    def reopen_log(self) -> None:
        """What kubelet calls after it has rotated the log."""
        self.runtime.call("ReopenContainerLog", container_id=self.id)

    def update(self, **limits: int) -> None:
        """Changes resources in place; names as in `ContainerSpec.resources`."""
        self.runtime.call(
            "UpdateContainerResources", container_id=self.id, linux=resources(limits)
        )

    def stop(self, timeout: int = 10) -> Status:
        """SIGTERM, and SIGKILL after `timeout` seconds."""
        self.runtime.call(
            "StopContainer", container_id=self.id, timeout=timeout, deadline=timeout + 60
        )
        return self.status()

    def remove(self) -> None:
        """Removes it, stopped or not."""
        self.runtime.call("RemoveContainer", container_id=self.id)


class Pod:
    """A pod; its sandbox runs from `start` (or `with`) to `remove`."""

    def __init__(self, name: str, *, runtime: Runtime | None = None, **described: Any) -> None:
        """Describes a pod.

        Args:
            name: of the pod, as in its metadata.
            runtime: a connection to use; by default the pod opens one.
            described: more of `PodSpec`.
        """
        self.spec = PodSpec(name, **described)
        self.name = name
        self.namespace = self.spec.namespace
        self.uid = str(uuid.uuid4())
        self.runtime = runtime or Runtime()
        self.cgroup = f"kubepods/pod{self.uid}"
        self.config = self.spec.config(self.uid, self.cgroup)
        self.id = ""
        self.containers: list[Container] = []

    def start(self) -> Self:
        """Runs the sandbox: cgroup, namespaces, network."""
        Path(self.config.log_directory).mkdir(parents=True, exist_ok=True)
        cgroups.make(self.cgroup, self.spec.limits)
        answer = self.runtime.call(
            "RunPodSandbox", config=self.config, runtime_handler=self.spec.runtime_handler
        )
        self.id = answer.pod_sandbox_id
        return self

    def create(
        self, image: str, command: Iterable[str] = (), args: Iterable[str] = (), **described: Any
    ) -> Container:
        """Creates a container and does not start it; `described` is more of `ContainerSpec`."""
        spec = ContainerSpec(image, command, args, **described)
        (Path(self.config.log_directory) / spec.called()).mkdir(exist_ok=True)
        answer = self.runtime.call(
            "CreateContainer",
            pod_sandbox_id=self.id,
            config=spec.config(self.spec, self.uid),
            sandbox_config=self.config,
        )
        self.containers.append(Container(self, answer.container_id, spec.called()))
        return self.containers[-1]

    def run(self, image: str, *positional: Any, **named: Any) -> Container:
        """Creates a container (arguments as for `create`) and starts it."""
        return self.create(image, *positional, **named).start()

    @property
    def addresses(self) -> list[str]:
        """Its IP addresses, the first one first."""
        network = self.runtime.call("PodSandboxStatus", pod_sandbox_id=self.id).status.network
        return [network.ip, *(item.ip for item in network.additional_ips)]

    @property
    def ip(self) -> str:
        """Its IPv4 address."""
        return next(address for address in self.addresses if "." in address)

    @property
    def ip6(self) -> str:
        """Its IPv6 address."""
        return next(address for address in self.addresses if ":" in address)

    def stop(self) -> None:
        """Ends its containers and its network."""
        self.runtime.call("StopPodSandbox", pod_sandbox_id=self.id)

    def remove(self) -> None:
        """Stops it and removes all that was of it, logs included."""
        if self.id:
            self.stop()
            self.runtime.call("RemovePodSandbox", pod_sandbox_id=self.id)
            self.id = ""
        shutil.rmtree(self.config.log_directory, ignore_errors=True)
        cgroups.remove(self.cgroup)

    def __enter__(self) -> Self:
        return self if self.id else self.start()

    def __exit__(self, *_: object) -> None:
        self.remove()


def _text(data: bytes) -> str:
    return data.decode("utf-8", "replace")
