"""Why a container must run without the supervisor; pure.

Judged from the OCI spec that the runtime has stored, which holds everything; NRI's own record of a
container has no capabilities in any version, and before 0.11 no seccomp profile either.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from nri_plugin.reasons import NONE, Reason

Spec: TypeAlias = Mapping[str, Any]
"""A runtime-spec config.json."""

RUNTIME = "io.containerd.runc.v2"
"""The one runtime whose way to start containers is known well enough."""

DESTINATION = "/.zeropod"
"""Where the supervisor's directory is mounted in a container."""

DANGEROUS = {
    "CAP_SYS_ADMIN": "mount and enter namespaces",
    "CAP_SYS_PTRACE": "write into the process that restores it",
    "CAP_SYS_MODULE": "load kernel modules",
    "CAP_SYS_RAWIO": "read and write physical memory",
    "CAP_DAC_READ_SEARCH": "open any file of the host by handle",
    "CAP_BPF": "read our BPF maps",
}
"""Capabilities with which a container could reach criu or our files, and what with."""

APPARMOR = frozenset({"", "unconfined", "cri-containerd.apparmor.d"})
"""Profiles that the supervisor is known to run under: none, and the runtime's default."""

SECCOMP_ALLOWS = frozenset({"SCMP_ACT_ALLOW", "SCMP_ACT_LOG"})

SUPERVISOR_CALLS = (
    ("clone",),
    ("clock_gettime",),
    ("close_range", "prlimit64"),  # tried in this order
    ("close",),
    ("execve",),
    ("exit_group",),
    ("getpid",),
    ("kill",),
    ("openat",),
    ("prctl",),
    ("rt_sigaction",),
    ("rt_sigprocmask",),
    ("rt_sigtimedwait",),
    ("setsid",),
    ("wait4",),
    ("writev",),
)
"""What the supervisor cannot do without (head of supervisor/zeropod-init.c); one of each group."""

PID_ONE = frozenset(
    {"/init", "/sbin/init", "/usr/sbin/init", "/lib/systemd/systemd", "/usr/lib/systemd/systemd"}
)
"""Programs that refuse to run, or behave as something else, unless they are PID 1 (s6, systemd)."""


@dataclass(frozen=True, slots=True)
class Host:
    """What a spec does not say.

    Attributes:
        runtime: name of the container's runtime, for example "io.containerd.runc.v2".
        network: the container shares the host's network namespace.
    """

    runtime: str = RUNTIME
    network: bool = False


def find(spec: Spec, host: Host) -> Reason:
    """Return the reason why this container is not to be changed, an empty one if there is none."""
    for kind, check in _CHECKS.items():
        if text := check(spec, host):
            return Reason(kind, text)
    return NONE


def _runtime(_: Spec, host: Host) -> str:
    if host.runtime == RUNTIME:
        return ""
    return f"its runtime is {host.runtime}; only {RUNTIME} is supported"


def _capabilities(spec: Spec, _: Host) -> str:
    sets = _dict(_dict(spec, "process"), "capabilities").values()
    has = {name for one in sets if isinstance(one, list) for name in one}
    found = [name for name in DANGEROUS if name in has]
    if not found:
        return ""
    if len(found) == len(DANGEROUS):
        return "it is privileged, so it could reach the checkpoints of others; drop privileged"
    said = ", ".join(f"{name} (could {DANGEROUS[name]})" for name in found)
    return f"it has {said}; drop the capability from its securityContext"


def _network(spec: Spec, host: Host) -> str:
    if host.network or _namespace(spec, "network") is None:
        return "it uses the host's network (hostNetwork), whose packets cannot be held for one pod"
    return ""


def _processes(spec: Spec, _: Host) -> str:
    namespace = _namespace(spec, "pid")
    # containerd names the host's namespace by path too, the sandbox's.
    if namespace is not None and not namespace.get("path"):
        return ""
    return (
        "it shares its process namespace (hostPID or shareProcessNamespace), "
        "so it has no PID 1 of its own"
    )


def _users(spec: Spec, _: Host) -> str:
    if _namespace(spec, "user") is None and not _dict(spec, "linux").get("uidMappings"):
        return ""
    return "it runs in a user namespace (hostUsers: false), which is not supported"


def _terminal(spec: Spec, _: Host) -> str:
    if not _dict(spec, "process").get("terminal"):
        return ""
    return "it has a terminal (tty: true), which cannot be checkpointed; set tty to false"


def _apparmor(spec: Spec, _: Host) -> str:
    profile = _dict(spec, "process").get("apparmorProfile", "")
    if profile in APPARMOR:
        return ""
    return (
        f"its AppArmor profile {profile} may forbid to execute {DESTINATION}/init; "
        "use the runtime's default"
    )


def _seccomp(spec: Spec, _: Host) -> str:
    profile = _dict(_dict(spec, "linux"), "seccomp")
    if not profile:
        return ""
    if profile.get("listenerPath"):
        return "its seccomp profile asks a user-space agent, which cannot be checkpointed"
    default = profile.get("defaultAction") in SECCOMP_ALLOWS
    actions = dict(_seccomp_actions(profile))
    for group in SUPERVISOR_CALLS:
        if not any(actions.get(name, default) for name in group):
            return (
                f"its seccomp profile forbids {' and '.join(group)}, which the supervisor needs; "
                "allow it or use the runtime's default"
            )
    return ""


def _seccomp_actions(profile: Mapping[str, Any]) -> Iterator[tuple[str, bool]]:
    """Tell for each system call with a rule whether some rule allows it.

    Rules with conditions on arguments count as well: profiles have them for what nobody uses in
    an ordinary program, such as the namespace flags of clone.
    """
    allowed: dict[str, bool] = {}
    for rule in profile.get("syscalls") or []:
        for name in rule.get("names") or []:
            permits = rule.get("action") in SECCOMP_ALLOWS
            # A conditional refusal leaves the ordinary use alone.
            if permits or not rule.get("args"):
                allowed[name] = allowed.get(name, False) or permits
    yield from allowed.items()


def _entrypoint(spec: Spec, _: Host) -> str:
    args = _dict(spec, "process").get("args")
    if not isinstance(args, list) or not args:
        return "its spec names no program"
    if args[0] in PID_ONE:
        return f"{args[0]} has to be PID 1, which is the supervisor's place"
    return ""


def _mount_point(spec: Spec, _: Host) -> str:
    mounts = spec.get("mounts") or []
    if any(str(mount.get("destination", "")).rstrip("/") == DESTINATION for mount in mounts):
        return f"it mounts a volume of its own at {DESTINATION}, which is the supervisor's place"
    return ""


_CHECKS: Mapping[str, Callable[[Spec, Host], str]] = {
    "runtime": _runtime,
    "capabilities": _capabilities,
    "host-network": _network,
    "shared-processes": _processes,
    "user-namespace": _users,
    "terminal": _terminal,
    "apparmor": _apparmor,
    "seccomp": _seccomp,
    "entrypoint": _entrypoint,
    "mount-point": _mount_point,
}
"""The checks by the kind of their reason, in order."""


def _namespace(spec: Spec, kind: str) -> Mapping[str, Any] | None:
    for namespace in _dict(spec, "linux").get("namespaces") or []:
        if namespace.get("type") == kind:
            found: Mapping[str, Any] = namespace
            return found
    return None


def _dict(parent: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """Return an object of the spec; absent and null are empty."""
    value: Mapping[str, Any] = parent.get(key) or {}
    return value
