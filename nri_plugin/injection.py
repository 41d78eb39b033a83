"""The change that makes a container a managed one; pure.

The stored spec is changed after CreateContainer, on every version of NRI. NRI's own adjustment of
args (from 0.10 on) comes too early: what forbids an injection, capabilities above all, stands only
in the spec that the runtime makes afterwards.
"""

from __future__ import annotations

import copy
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from nri_plugin import refusals

SUPERVISOR = f"{refusals.DESTINATION}/init"

MARK = "injected.zeropod.ctrox.dev/args"
"""Annotation of the spec with the original args as JSON. It tells our containers from those whose
image merely happens to hold such a path: what a pod's owner writes does not get into the spec
under this key."""


def supervised(args: Sequence[str]) -> list[str]:
    """Return the args under which the supervisor runs `args`."""
    return [SUPERVISOR, "--", *args]


def rewrite(spec: refusals.Spec, container_dir: pathlib.Path) -> dict[str, Any]:
    """Return `spec` with the supervisor in it; all else, known or not, is as before."""
    changed: dict[str, Any] = copy.deepcopy(dict(spec))
    args = changed["process"]["args"]
    changed["process"]["args"] = supervised(args)
    changed["mounts"] = [*(changed.get("mounts") or []), _mount(container_dir)]
    changed["annotations"] = {
        **(changed.get("annotations") or {}),
        MARK: json.dumps(args, ensure_ascii=False),
    }
    return changed


def original(args: Sequence[str], annotations: Mapping[str, str]) -> list[str] | None:
    """Return the args before the injection, None if this container is none of ours."""
    if MARK not in annotations or list(args[:2]) != supervised([]):
        return None
    return list(args[2:])


def present(spec: refusals.Spec) -> bool:
    """Tell whether the supervisor is in `spec` already."""
    return original(spec["process"]["args"], spec.get("annotations") or {}) is not None


def _mount(container_dir: pathlib.Path) -> dict[str, Any]:
    return {
        "destination": refusals.DESTINATION,
        "type": "bind",
        "source": str(container_dir),
        "options": ["rbind", "ro", "nosuid", "nodev", "rprivate"],
    }
