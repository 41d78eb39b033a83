"""System calls taken away from a container, by its seccomp profile; pure.

What criu cannot bring back is best not begun. A program that is told ENOSYS does without, as on an older kernel.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from typing import Any

IO_URING = "io_uring_setup"
"""Its rings cannot be dumped (criu#2131). Node.js, uvloop and others use them whenever they can, and containerd's
default profile allowed it before 2.0; Kubernetes has no profile at all unless asked for one."""

LANDLOCK = "landlock_create_ruleset"
"""A program's own confinement, which criu does not bring back: after the first wake it would be gone, and nothing shows
that it was there. Better that the program knows."""

ENOSYS = 38

_ERRNO = "SCMP_ACT_ERRNO"

_ARCHITECTURES = {
    "x86_64": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
    "aarch64": ["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"],
}
"""Those of which a machine can run programs; a program of another one would be killed by a profile."""


def without(
    profile: Mapping[str, Any] | None, calls: Sequence[str], machine: str = platform.machine()
) -> dict[str, Any]:
    """Return a runtime-spec seccomp profile in which system calls fail with ENOSYS, all else as before.

    Args:
        profile: the container's; none, or an empty one, allows everything.
        calls: their names.
        machine: the architecture.
    """
    denied = {"names": [*calls], "action": _ERRNO, "errnoRet": ENOSYS}
    if not profile:
        return {
            "defaultAction": "SCMP_ACT_ALLOW",
            "architectures": _ARCHITECTURES.get(machine, []),
            "syscalls": [denied],
        }
    # Two rules for one call contradict each other; libseccomp refuses that.
    rules = [_rule(rule, calls) for rule in profile.get("syscalls") or []]
    return {**profile, "syscalls": [*(rule for rule in rules if rule["names"]), denied]}


def _rule(rule: Mapping[str, Any], calls: Sequence[str]) -> dict[str, Any]:
    names: Sequence[str] = rule.get("names") or []
    return {**rule, "names": [name for name in names if name not in calls]}
