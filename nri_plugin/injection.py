"""The change that makes a container a managed one; pure.

The stored spec is changed after CreateContainer, on every version of NRI. NRI's own adjustment of
args (from 0.10 on) comes too early: what forbids an injection, capabilities above all, stands only
in the spec that the runtime makes afterwards.
"""

from __future__ import annotations

import copy
import json
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from nri_plugin import refusals, seccomp

SUPERVISOR = f"{refusals.DESTINATION}/init"

MARK = "injected.zeropod.ctrox.dev/args"
"""Annotation of the spec with the original args as JSON."""


def supervised(args: Sequence[str]) -> list[str]:
    """Return the args under which the supervisor runs `args`."""
    return [SUPERVISOR, "--", *args]


def rewrite(
    spec: refusals.Spec, container_dir: pathlib.Path, *, denied: Sequence[str] = ()
) -> dict[str, Any]:
    """Return `spec` with the supervisor in it; all else, known or not, is as before.

    Args:
        spec: of the container.
        container_dir: where the supervisor is on the host.
        denied: system calls that shall fail with ENOSYS.
    """
    changed: dict[str, Any] = copy.deepcopy(dict(spec))
    args = changed["process"]["args"]
    changed["process"]["args"] = supervised(args)
    changed["mounts"] = [*(changed.get("mounts") or []), _mount(container_dir)]
    changed["annotations"] = {
        **(changed.get("annotations") or {}),
        MARK: json.dumps(args, ensure_ascii=False),
    }
    if denied:
        linux = changed.get("linux") or {}
        profile = seccomp.without(linux.get("seccomp"), denied)
        changed["linux"] = {**linux, "seccomp": profile}
    return changed


def original(
    args: Sequence[str],
    annotations: Mapping[str, str],
    mounts: Iterable[tuple[str, str]],
    container_dir: pathlib.Path,
) -> list[str] | None:
    """Return the args before the injection, None if this container is none of ours.

    The mount is what counts: an image may hold such a path, and where the runtime passes pods'
    annotations on, an owner could write the mark, but only we mount the supervisor.

    Args:
        args: of the spec.
        annotations: of the spec.
        mounts: destination and source of each mount of the spec.
        container_dir: where the supervisor is on the host.
    """
    ours = (refusals.DESTINATION, str(container_dir))
    if MARK not in annotations or list(args[:2]) != supervised([]) or ours not in mounts:
        return None
    return list(args[2:])


def present(spec: refusals.Spec, container_dir: pathlib.Path) -> bool:
    """Tell whether the supervisor is in `spec` already."""
    mounts = [(m.get("destination"), m.get("source")) for m in spec.get("mounts") or []]
    annotations = spec.get("annotations") or {}
    args = (spec.get("process") or {}).get("args") or []
    return original(args, annotations, mounts, container_dir) is not None


def _mount(container_dir: pathlib.Path) -> dict[str, Any]:
    return {
        "destination": refusals.DESTINATION,
        "type": "bind",
        "source": str(container_dir),
        "options": ["rbind", "ro", "nosuid", "nodev", "rprivate"],
    }
