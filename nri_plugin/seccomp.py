"""A system call taken away from a container, by its seccomp profile; pure.

What criu cannot bring back is best not begun. A program that is told ENOSYS does without, as on an older kernel.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from typing import Any

IO_URING = "io_uring_setup"
"""Its rings cannot be dumped (criu#2131). Node.js, uvloop and others use them whenever they can, and containerd's
default profile allowed it before 2.0; Kubernetes has no profile at all unless asked for one."""

ENOSYS = 38

_ERRNO = "SCMP_ACT_ERRNO"

_ARCHITECTURES = {
    "x86_64": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
    "aarch64": ["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"],
}
"""Those of which a machine can run programs; a program of another one would be killed by a profile."""


def without(
    profile: Mapping[str, Any] | None, name: str, machine: str = platform.machine()
) -> dict[str, Any]:
    """Return a runtime-spec seccomp profile in which a system call fails with ENOSYS, all else as before.

    Args:
        profile: the container's; none, or an empty one, allows everything.
        name: of the call.
        machine: the architecture.
    """
    denied = {"names": [name], "action": _ERRNO, "errnoRet": ENOSYS}
    if not profile:
        return {
            "defaultAction": "SCMP_ACT_ALLOW",
            "architectures": _ARCHITECTURES.get(machine, []),
            "syscalls": [denied],
        }
    # Two rules for one call contradict each other; libseccomp refuses that.
    rules = [_rule(rule, name) for rule in profile.get("syscalls") or []]
    return {**profile, "syscalls": [*(rule for rule in rules if rule["names"]), denied]}


def _rule(rule: Mapping[str, Any], name: str) -> dict[str, Any]:
    names: Sequence[str] = rule.get("names") or []
    return {**rule, "names": [one for one in names if one != name]}
