"""From a pod's annotations to what its owner wants; pure.

The keys are those of the original zeropod. To support another one, move it from `_LATER` to
`_PARSERS` and give `Wish` its field.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from nri_plugin import durations

PREFIX = "zeropod.ctrox.dev/"

RUNTIME_HANDLER = "zeropod"
"""Pods of this runtime class are wanted without any annotation, as with the original."""

DEFAULTS: Mapping[str, Any] = {
    "scaledown": 60.0,  # seconds; the original's default
    "connections": "keep",
    "disable_checkpointing": False,
    "dry_run": False,
    "wake_on_stop": True,
    "on_failure": "stay",
    "cpu_threshold": 0.0,
    "max_request": 600.0,
    "min_awake": 0.0,
    "max_image_size": 0,
    "ignore_from": (),
    "ignore_ports": (),
    "ports": (),
    "pre_dump": False,
    "lazy_restore": "auto",
    "probe_detection": True,
    "portless": False,
    "notes": (),
}
"""What a container gets whose pod says nothing: fields of the report's Policy."""

_PARSERS: Mapping[str, tuple[str, Callable[[str], Any]]] = {
    "scaledown-duration": ("scaledown", durations.parse),
}

_LATER = frozenset(
    {
        "connect-timeout",
        "container-names",
        "cpu-requests",
        "disable-checkpointing",
        "disable-migrate-data",
        "disable-probe-detection",
        "live-migrate",
        "memory-requests",
        "migrate",
        "ports-map",
        "pre-dump",
        "probe-buffer-size",
        "proxy-timeout",
        "wake-on-stop",
    }
)
"""Keys with a meaning that is not built yet. Ignoring one could do harm, so it is a refusal."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What the owner of a pod wants of us.

    Attributes:
        annotations: the pod's annotations with our prefix, as written.
        policy: what they mean: fields of the report's Policy, all of them.
        reason: why the wish cannot be granted; "" if it can.
    """

    annotations: Mapping[str, str]
    policy: Mapping[str, Any] = field(default_factory=lambda: DEFAULTS)
    reason: str = ""


def read(annotations: Mapping[str, str], runtime_handler: str) -> Wish | None:
    """Return the wish of a pod, None if it wants nothing of us."""
    ours = {key: annotations[key] for key in sorted(annotations) if key.startswith(PREFIX)}
    if not ours and runtime_handler != RUNTIME_HANDLER:
        return None
    parsed = dict(DEFAULTS)
    for key, value in ours.items():
        name = key.removeprefix(PREFIX)
        if name not in _PARSERS:
            return Wish(ours, reason=_unsupported(key, value))
        try:
            target, parse = _PARSERS[name]
            parsed[target] = parse(value)
        except ValueError as error:
            return Wish(ours, reason=f"annotation {key}: {error}")
    return Wish(ours, parsed)


def _unsupported(key: str, value: str) -> str:
    shown = value if len(value) <= 80 else value[:77] + "..."
    if key.removeprefix(PREFIX) in _LATER:
        return f"annotation {key}: {shown!r} is not supported yet; remove it from the pod"
    known = ", ".join(PREFIX + name for name in sorted(_PARSERS))
    return f"unknown annotation {key}: {shown!r}; remove it or correct the key (known: {known})"
