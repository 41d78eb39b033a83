"""containerd's CRI service: our own subset of runtime.v1, made from a table of field numbers."""

from __future__ import annotations

from typing import Any

import grpc

from dev import patience
from ttrpc.messages import schema

SOCKET = "unix:///run/containerd/containerd.sock"

#: The part of runtime.v1 used here: number, name and type of each field.
V1 = schema(
    "runtime.v1",
    {
        "Int64Value": [(1, "value", "int64")],
        "Empty": [],
        "Version": [(1, "version", "string"), (2, "name", "string"), (3, "release", "string")],
        "PodSandboxMetadata": [(1, "name", "string"), (2, "uid", "string"), (3, "namespace", "string"),
                               (4, "attempt", "uint32")],
        "NamespaceOption": [(1, "network", "int32"), (2, "pid", "int32"), (3, "ipc", "int32"),
                            (4, "target_id", "string")],
        "SecurityProfile": [(1, "profile_type", "int32"), (2, "localhost_ref", "string")],
        "SandboxSecurity": [(1, "namespace_options", "NamespaceOption"), (6, "privileged", "bool"),
                            (9, "seccomp", "SecurityProfile")],
        "LinuxPod": [(1, "cgroup_parent", "string"), (2, "security_context", "SandboxSecurity"),
                     (3, "sysctls", "map<string,string>")],
        "PodConfig": [(1, "metadata", "PodSandboxMetadata"), (2, "hostname", "string"),
                      (3, "log_directory", "string"), (6, "labels", "map<string,string>"),
                      (7, "annotations", "map<string,string>"), (8, "linux", "LinuxPod")],
        "RunPodSandboxRequest": [(1, "config", "PodConfig"), (2, "runtime_handler", "string")],
        "PodId": [(1, "pod_sandbox_id", "string")],
        "PodIp": [(1, "ip", "string")],
        "PodNetwork": [(1, "ip", "string"), (2, "additional_ips", "repeated PodIp")],
        "PodStatus": [(1, "id", "string"), (2, "metadata", "PodSandboxMetadata"), (3, "state", "int32"),
                      (5, "network", "PodNetwork")],
        "PodStatusResponse": [(1, "status", "PodStatus")],
        "PodItem": [(1, "id", "string"), (2, "metadata", "PodSandboxMetadata"), (3, "state", "int32"),
                    (6, "annotations", "map<string,string>")],
        "PodList": [(1, "items", "repeated PodItem")],
        "Metadata": [(1, "name", "string"), (2, "attempt", "uint32")],
        "Image": [(1, "image", "string")],
        "KeyValue": [(1, "key", "string"), (2, "value", "string")],
        "Mount": [(1, "container_path", "string"), (2, "host_path", "string"), (3, "readonly", "bool"),
                  (5, "propagation", "int32")],
        "Resources": [(1, "cpu_period", "int64"), (2, "cpu_quota", "int64"), (3, "cpu_shares", "int64"),
                      (4, "memory_limit_in_bytes", "int64"), (5, "oom_score_adj", "int64"),
                      (9, "unified", "map<string,string>")],
        "Capability": [(1, "add_capabilities", "repeated string"), (2, "drop_capabilities", "repeated string")],
        "Security": [(1, "capabilities", "Capability"), (2, "privileged", "bool"),
                     (3, "namespace_options", "NamespaceOption"), (5, "run_as_user", "Int64Value"),
                     (7, "readonly_rootfs", "bool"), (8, "supplemental_groups", "repeated int64"),
                     (11, "no_new_privs", "bool"), (12, "run_as_group", "Int64Value"),
                     (15, "seccomp", "SecurityProfile")],
        "Linux": [(1, "resources", "Resources"), (2, "security_context", "Security")],
        "Config": [(1, "metadata", "Metadata"), (2, "image", "Image"), (3, "command", "repeated string"),
                   (4, "args", "repeated string"), (5, "working_dir", "string"), (6, "envs", "repeated KeyValue"),
                   (7, "mounts", "repeated Mount"), (9, "labels", "map<string,string>"),
                   (10, "annotations", "map<string,string>"), (11, "log_path", "string"), (12, "stdin", "bool"),
                   (13, "stdin_once", "bool"), (14, "tty", "bool"), (15, "linux", "Linux")],
        "CreateContainerRequest": [(1, "pod_sandbox_id", "string"), (2, "config", "Config"),
                                   (3, "sandbox_config", "PodConfig")],
        "ContainerId": [(1, "container_id", "string")],
        "StatusRequest": [(1, "container_id", "string"), (2, "verbose", "bool")],
        "StopRequest": [(1, "container_id", "string"), (2, "timeout", "int64")],
        "StatusItem": [(1, "id", "string"), (2, "metadata", "Metadata"), (3, "state", "int32"),
                       (4, "created_at", "int64"), (5, "started_at", "int64"), (6, "finished_at", "int64"),
                       (7, "exit_code", "int32"), (10, "reason", "string"), (11, "message", "string"),
                       (12, "labels", "map<string,string>"), (13, "annotations", "map<string,string>"),
                       (15, "log_path", "string")],
        "StatusResponse": [(1, "status", "StatusItem"), (2, "info", "map<string,string>")],
        "ExecRequest": [(1, "container_id", "string"), (2, "cmd", "repeated string"), (3, "timeout", "int64")],
        "ExecResponse": [(1, "stdout", "bytes"), (2, "stderr", "bytes"), (3, "exit_code", "int32")],
        "StreamExecRequest": [(1, "container_id", "string"), (2, "cmd", "repeated string"), (3, "tty", "bool"),
                              (4, "stdin", "bool"), (5, "stdout", "bool"), (6, "stderr", "bool")],
        "AttachRequest": [(1, "container_id", "string"), (2, "stdin", "bool"), (3, "tty", "bool"),
                          (4, "stdout", "bool"), (5, "stderr", "bool")],
        "PortForwardRequest": [(1, "pod_sandbox_id", "string"), (2, "port", "repeated int32")],
        "Url": [(1, "url", "string")],
        "UpdateRequest": [(1, "container_id", "string"), (2, "linux", "Resources")],
        "ContainerItem": [(1, "id", "string"), (2, "pod_sandbox_id", "string"), (3, "metadata", "Metadata"),
                          (6, "state", "int32"), (8, "labels", "map<string,string>")],
        "ContainerList": [(1, "containers", "repeated ContainerItem")],
    },
)  # fmt: skip

#: Method: request and response message.
METHODS = {
    "Version": ("Empty", "Version"),
    "RunPodSandbox": ("RunPodSandboxRequest", "PodId"),
    "StopPodSandbox": ("PodId", "Empty"),
    "RemovePodSandbox": ("PodId", "Empty"),
    "PodSandboxStatus": ("PodId", "PodStatusResponse"),
    "ListPodSandbox": ("Empty", "PodList"),
    "CreateContainer": ("CreateContainerRequest", "ContainerId"),
    "StartContainer": ("ContainerId", "Empty"),
    "StopContainer": ("StopRequest", "Empty"),
    "RemoveContainer": ("ContainerId", "Empty"),
    "ContainerStatus": ("StatusRequest", "StatusResponse"),
    "ListContainers": ("Empty", "ContainerList"),
    "Exec": ("StreamExecRequest", "Url"),
    "Attach": ("AttachRequest", "Url"),
    "PortForward": ("PortForwardRequest", "Url"),
    "ExecSync": ("ExecRequest", "ExecResponse"),
    "UpdateContainerResources": ("UpdateRequest", "Empty"),
    "ReopenContainerLog": ("ContainerId", "Empty"),
}


class Runtime:
    """A connection to containerd's CRI service."""

    def __init__(self, address: str = SOCKET) -> None:
        # Without it grpc sends the socket's path as the authority, which containerd refuses.
        options = [("grpc.default_authority", "localhost")]
        self.channel = grpc.insecure_channel(address, options=options)

    def call(self, method: str, *, deadline: float = 120.0, **fields: Any) -> Any:
        """Calls a method of `runtime.v1.RuntimeService` and returns its response message.

        Args:
            method: its name.
            deadline: seconds after which an idle machine has failed.
            fields: of the request.

        Raises:
            grpc.RpcError: what the runtime answered.
        """
        request, response = METHODS[method]
        invoke: Any = self.channel.unary_unary(
            "/runtime.v1.RuntimeService/" + method,
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=getattr(V1, response).FromString,
        )
        return invoke(getattr(V1, request)(**fields), timeout=patience.seconds(deadline))

    def close(self) -> None:
        """Closes the connection."""
        self.channel.close()
