"""What a pod and a container are to be, as a test or a person says it, and the runtime's messages for it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from dev.runtime import V1

#: Kinds of namespaces, as runtime.v1 numbers them.
POD, CONTAINER, NODE, TARGET = 0, 1, 2, 3


@dataclass(frozen=True)
class PodSpec:
    """A pod."""

    name: str

    namespace: str = field(default="default", kw_only=True)

    annotations: Mapping[str, str] = field(default_factory=dict, kw_only=True)

    labels: Mapping[str, str] = field(default_factory=dict, kw_only=True)

    runtime_handler: str = field(default="", kw_only=True)
    """"" for the default, "zeropod" for the second one of the node."""

    limits: Mapping[str, int] = field(default_factory=dict, kw_only=True)
    """Of the pod's own cgroup, which kubelet makes: `cpu_quota` (microseconds in each 100 ms), `memory` (bytes)."""

    sysctls: Mapping[str, str] = field(default_factory=dict, kw_only=True)
    """Set in the pod's namespaces."""

    host_network: bool = field(default=False, kw_only=True)
    """Use the node's network namespace."""

    host_pid: bool = field(default=False, kw_only=True)
    """Use the node's PID namespace."""

    share_pid: bool = field(default=False, kw_only=True)
    """One PID namespace for all containers."""

    privileged: bool = field(default=False, kw_only=True)
    """Allow privileged containers."""

    def identity(self, uid: str) -> dict[str, str]:
        """The labels by which kubelet finds the pod's things again."""
        return {
            "io.kubernetes.pod.name": self.name,
            "io.kubernetes.pod.namespace": self.namespace,
            "io.kubernetes.pod.uid": uid,
        }

    def namespaces(self) -> Any:
        """Which namespaces its containers share with whom."""
        return V1.NamespaceOption(
            network=NODE if self.host_network else POD,
            pid=NODE if self.host_pid else POD if self.share_pid else CONTAINER,
        )

    def config(self, uid: str, cgroup: str) -> Any:
        """The sandbox's configuration."""
        return V1.PodConfig(
            metadata=V1.PodSandboxMetadata(name=self.name, uid=uid, namespace=self.namespace),
            hostname="" if self.host_network else self.name,
            log_directory=f"/var/log/pods/{self.namespace}_{self.name}_{uid}",
            labels={**self.labels, **self.identity(uid)},
            annotations={"kubernetes.io/config.source": "api", **self.annotations},
            linux=V1.LinuxPod(
                cgroup_parent="/" + cgroup,
                security_context=V1.SandboxSecurity(
                    namespace_options=self.namespaces(),
                    privileged=self.privileged,
                    seccomp=V1.SecurityProfile(),
                ),
                sysctls=dict(self.sysctls),
            ),
        )


@dataclass(frozen=True)
class ContainerSpec:
    """A container of a pod."""

    image: str
    """For example `localhost/redis:1`."""

    command: Iterable[str] = ()
    """Replaces the image's entrypoint."""

    args: Iterable[str] = ()
    """Replaces the image's command."""

    name: str = field(default="", kw_only=True)
    """By default that of the image."""

    attempt: int = field(default=0, kw_only=True)
    """How often kubelet has restarted it."""

    env: Mapping[str, str] = field(default_factory=dict, kw_only=True)

    working_dir: str = field(default="", kw_only=True)
    """Instead of the image's."""

    mounts: Iterable[Mapping[str, Any]] = field(default=(), kw_only=True)
    """Each with `container_path`, `host_path` and, if wanted, `readonly`, `propagation`."""

    resources: Mapping[str, int] = field(default_factory=dict, kw_only=True)
    """`cpu_period`, `cpu_quota` (microseconds), `cpu_shares`, `memory` (bytes), `oom_score_adj`, `unified`
    (cgroup v2 files by name)."""

    security: Mapping[str, Any] = field(default_factory=dict, kw_only=True)
    """`run_as_user`, `run_as_group`, `supplemental_groups`, `readonly_rootfs`, `no_new_privs`, `privileged`,
    `drop_all`, `add`, `drop` (capabilities), `unconfined` (no seccomp profile), `profile` (path of one on the node)."""

    annotations: Mapping[str, str] = field(default_factory=dict, kw_only=True)

    stdin: bool = field(default=False, kw_only=True)
    """Keep its standard input open."""

    tty: bool = field(default=False, kw_only=True)
    """Give it a terminal."""

    target: str = field(default="", kw_only=True)
    """Id of a container whose processes it sees, as `kubectl debug --target` has it."""

    def called(self) -> str:
        """Its name."""
        return self.name or self.image.rpartition("/")[2].partition(":")[0]

    def namespaces(self, pod: PodSpec) -> Any:
        """Which namespaces it shares with whom."""
        shared = pod.namespaces()
        if self.target:
            shared.pid, shared.target_id = TARGET, self.target
        return shared

    def config(self, pod: PodSpec, uid: str) -> Any:
        """The container's configuration."""
        return V1.Config(
            metadata=V1.Metadata(name=self.called(), attempt=self.attempt),
            image=V1.Image(image=self.image),
            command=list(self.command),
            args=list(self.args),
            working_dir=self.working_dir,
            envs=[V1.KeyValue(key=key, value=value) for key, value in self.env.items()],
            mounts=[V1.Mount(**mount) for mount in self.mounts],
            labels={**pod.identity(uid), "io.kubernetes.container.name": self.called()},
            annotations={
                "io.kubernetes.container.restartCount": str(self.attempt),
                "io.kubernetes.container.terminationMessagePolicy": "File",
                "io.kubernetes.pod.terminationGracePeriod": "30",
                **self.annotations,
            },
            log_path=f"{self.called()}/{self.attempt}.log",
            stdin=self.stdin,
            tty=self.tty,
            linux=V1.Linux(
                resources=resources(self.resources),
                security_context=_security(self.security, self.namespaces(pod)),
            ),
        )


def resources(wanted: Mapping[str, Any]) -> Any:
    """Limits, names as in `ContainerSpec.resources`."""
    names = {"memory": "memory_limit_in_bytes"}
    fields = {names.get(key, key): value for key, value in wanted.items()}
    if "cpu_quota" in fields:
        fields.setdefault("cpu_period", 100000)
    return V1.Resources(**fields)


def _security(wanted: Mapping[str, Any], namespaces: Any) -> Any:
    fields = dict(wanted)
    drop = ["ALL"] if fields.pop("drop_all", False) else list(fields.pop("drop", ()))
    add = list(fields.pop("add", ()))
    unconfined, profile = fields.pop("unconfined", False), fields.pop("profile", "")
    kind = 2 if profile else int(unconfined)
    for key in ("run_as_user", "run_as_group"):
        if key in fields:
            fields[key] = V1.Int64Value(value=fields[key])
    return V1.Security(
        capabilities=V1.Capability(add_capabilities=add, drop_capabilities=drop),
        namespace_options=namespaces,
        # Kubernetes' SeccompDefault: the runtime's profile unless told otherwise.
        seccomp=V1.SecurityProfile(profile_type=kind, localhost_ref=profile),
        **fields,
    )
