"""A client for the container runtime's CRI, as kubelet would use it: pods from a short description.

    with cri.Pod("web", annotations={"zeropod.ctrox.dev/scaledown-duration": "5s"}) as pod:
        redis = pod.run("localhost/redis:1")
        redis.exec(["redis-cli", "ping"])

Runs inside the node, from the checkout (`/src`). Needs grpcio.
"""

from __future__ import annotations

import json
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

from dev.runtime import V1, Runtime

CGROUPS = Path("/sys/fs/cgroup")

STATES = ("created", "running", "exited", "unknown")

#: Kinds of namespaces, as runtime.v1 numbers them.
POD, CONTAINER, NODE = 0, 1, 2


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
        answer = self.runtime.call("ExecSync", container_id=self.id, cmd=list(command), timeout=timeout,
                                   deadline=timeout + 10)  # fmt: skip
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

    def update(self, **resources: int) -> None:
        """Changes resources in place; names as in `Pod.run`."""
        self.runtime.call(
            "UpdateContainerResources", container_id=self.id, linux=_resources(resources)
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

    def __init__(
        self,
        name: str,
        *,
        namespace: str = "default",
        annotations: Mapping[str, str] | None = None,
        labels: Mapping[str, str] | None = None,
        runtime_handler: str = "",
        limits: Mapping[str, int] | None = None,
        sysctls: Mapping[str, str] | None = None,
        host_network: bool = False,
        host_pid: bool = False,
        share_pid: bool = False,
        privileged: bool = False,
        runtime: Runtime | None = None,
    ) -> None:
        """Describes a pod.

        Args:
            name: of the pod, as in its metadata.
            namespace: of the pod.
            annotations: of the pod.
            labels: of the pod.
            runtime_handler: "" for the default, "zeropod" for the second one of the node.
            limits: of the pod's own cgroup, which kubelet makes: `cpu_quota` (microseconds in each
                100 ms), `memory` (bytes).
            sysctls: set in the pod's namespaces.
            host_network: use the node's network namespace.
            host_pid: use the node's PID namespace.
            share_pid: one PID namespace for all containers.
            privileged: allow privileged containers.
            runtime: a connection to use; by default the pod opens one.
        """
        self.name = name
        self.namespace = namespace
        self.uid = str(uuid.uuid4())
        self.runtime = runtime or Runtime()
        self.runtime_handler = runtime_handler
        self.limits = dict(limits or {})
        self.cgroup = f"kubepods/pod{self.uid}"
        self.id = ""
        self.containers: list[Container] = []
        self.labels = {
            "io.kubernetes.pod.name": name,
            "io.kubernetes.pod.namespace": namespace,
            "io.kubernetes.pod.uid": self.uid,
        }
        self.namespaces = V1.NamespaceOption(
            network=NODE if host_network else POD,
            pid=NODE if host_pid else POD if share_pid else CONTAINER,
        )
        self.config = V1.PodConfig(
            metadata=V1.PodSandboxMetadata(name=name, uid=self.uid, namespace=namespace),
            hostname="" if host_network else name,
            log_directory=f"/var/log/pods/{namespace}_{name}_{self.uid}",
            labels={**(labels or {}), **self.labels},
            annotations={"kubernetes.io/config.source": "api", **(annotations or {})},
            linux=V1.LinuxPod(
                cgroup_parent="/" + self.cgroup,
                security_context=V1.SandboxSecurity(
                    namespace_options=self.namespaces,
                    privileged=privileged,
                    seccomp=V1.SecurityProfile(),
                ),
                sysctls=dict(sysctls or {}),
            ),
        )

    def start(self) -> Self:
        """Runs the sandbox: cgroup, namespaces, network."""
        Path(self.config.log_directory).mkdir(parents=True, exist_ok=True)
        self._make_cgroup()
        answer = self.runtime.call(
            "RunPodSandbox", config=self.config, runtime_handler=self.runtime_handler
        )
        self.id = answer.pod_sandbox_id
        return self

    def create(
        self,
        image: str,
        command: Iterable[str] = (),
        args: Iterable[str] = (),
        *,
        name: str = "",
        attempt: int = 0,
        env: Mapping[str, str] | None = None,
        working_dir: str = "",
        mounts: Iterable[Mapping[str, Any]] = (),
        resources: Mapping[str, int] | None = None,
        security: Mapping[str, Any] | None = None,
        annotations: Mapping[str, str] | None = None,
        stdin: bool = False,
        tty: bool = False,
    ) -> Container:
        """Creates a container and does not start it.

        Args:
            image: for example `localhost/redis:1`.
            command: replaces the image's entrypoint.
            args: replaces the image's command.
            name: of the container; by default that of the image.
            attempt: how often kubelet has restarted it.
            env: environment variables.
            working_dir: instead of the image's.
            mounts: each with `container_path`, `host_path` and, if wanted, `readonly`, `propagation`.
            resources: `cpu_period`, `cpu_quota` (microseconds), `cpu_shares`, `memory` (bytes),
                `oom_score_adj`.
            security: `run_as_user`, `run_as_group`, `supplemental_groups`, `readonly_rootfs`,
                `no_new_privs`, `privileged`, `drop_all`, `add`, `drop` (capabilities), `unconfined`
                (no seccomp profile).
            annotations: of the container.
            stdin: keep its standard input open.
            tty: give it a terminal.
        """
        name = name or image.rpartition("/")[2].partition(":")[0]
        config = V1.Config(
            metadata=V1.Metadata(name=name, attempt=attempt),
            image=V1.Image(image=image),
            command=list(command),
            args=list(args),
            working_dir=working_dir,
            envs=[V1.KeyValue(key=key, value=value) for key, value in (env or {}).items()],
            mounts=[V1.Mount(**mount) for mount in mounts],
            labels={**self.labels, "io.kubernetes.container.name": name},
            annotations={
                "io.kubernetes.container.restartCount": str(attempt),
                "io.kubernetes.container.terminationMessagePolicy": "File",
                "io.kubernetes.pod.terminationGracePeriod": "30",
                **(annotations or {}),
            },
            log_path=f"{name}/{attempt}.log",
            stdin=stdin,
            tty=tty,
            linux=V1.Linux(
                resources=_resources(resources or {}),
                security_context=_security(security or {}, self.namespaces),
            ),
        )
        (Path(self.config.log_directory) / name).mkdir(exist_ok=True)
        answer = self.runtime.call(
            "CreateContainer", pod_sandbox_id=self.id, config=config, sandbox_config=self.config
        )
        self.containers.append(Container(self, answer.container_id, name))
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
        remove_cgroup(self.cgroup)

    def __enter__(self) -> Self:
        return self if self.id else self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.remove()

    def _make_cgroup(self) -> None:
        """As kubelet does: the pod's cgroup is there, with its limits, before the sandbox."""
        for root in hierarchies():
            folder = root / self.cgroup
            folder.mkdir(parents=True, exist_ok=True)
            quota, memory = self.limits.get("cpu_quota", -1), self.limits.get("memory", -1)
            wanted = {
                "cpu.cfs_quota_us": str(quota) if quota > 0 else "",
                "memory.limit_in_bytes": str(memory) if memory > 0 else "",
                "cpu.max": f"{quota} 100000" if quota > 0 else "",
                "memory.max": str(memory) if memory > 0 else "",
            }
            if (root / "cgroup.subtree_control").exists() and root == CGROUPS:
                _pass_down(folder)
            for item, value in wanted.items():
                if value and (folder / item).exists():
                    (folder / item).write_text(value, encoding="ascii")


def hierarchies() -> list[Path]:
    """The roots of all cgroup hierarchies of the node; one on cgroup v2."""
    if (CGROUPS / "cgroup.procs").exists():
        return [CGROUPS]
    return sorted(path for path in CGROUPS.iterdir() if path.is_dir() and not path.is_symlink())


def remove_cgroup(name: str, timeout: float = 5.0) -> None:
    """Removes a cgroup that holds no process any more, in every hierarchy."""
    for root in hierarchies():
        deadline = time.monotonic() + timeout
        while (root / name).exists() and time.monotonic() < deadline:
            for folder, _, _ in os.walk(root / name, topdown=False):
                try:
                    Path(folder).rmdir()
                except OSError:
                    # The kernel is still taking its last process apart.
                    time.sleep(0.02)


def until(done: Callable[[], bool], timeout: float = 30.0) -> None:
    """Asks again every 20 ms.

    Raises:
        TimeoutError: it never became true.
    """
    deadline = time.monotonic() + timeout
    while not done():
        if time.monotonic() > deadline:
            message = f"not so after {timeout} s"
            raise TimeoutError(message)
        time.sleep(0.02)


def _pass_down(folder: Path) -> None:
    for path in (folder.parent, folder):
        for controller in (
            (path.parent / "cgroup.subtree_control").read_text(encoding="ascii").split()
        ):
            (path / "cgroup.subtree_control").write_text(f"+{controller}", encoding="ascii")


def _resources(wanted: Mapping[str, int]) -> Any:
    names = {"memory": "memory_limit_in_bytes"}
    fields = {names.get(key, key): value for key, value in wanted.items()}
    if "cpu_quota" in fields:
        fields.setdefault("cpu_period", 100000)
    return V1.Resources(**fields)


def _security(wanted: Mapping[str, Any], namespaces: Any) -> Any:
    fields = dict(wanted)
    drop = ["ALL"] if fields.pop("drop_all", False) else list(fields.pop("drop", ()))
    add = list(fields.pop("add", ()))
    unconfined = fields.pop("unconfined", False)
    for key in ("run_as_user", "run_as_group"):
        if key in fields:
            fields[key] = V1.Int64Value(value=fields[key])
    return V1.Security(
        capabilities=V1.Capability(add_capabilities=add, drop_capabilities=drop),
        namespace_options=namespaces,
        # Kubernetes' SeccompDefault: the runtime's profile unless told otherwise.
        seccomp=V1.SecurityProfile(profile_type=1 if unconfined else 0),
        **fields,
    )


def _text(data: bytes) -> str:
    return data.decode("utf-8", "replace")
