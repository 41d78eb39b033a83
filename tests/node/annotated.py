"""Pods whose annotations a test chooses."""

from __future__ import annotations

from collections.abc import Callable

from node import sleepers

from dev import cri

Pods = Callable[..., cri.Pod]

PREFIX = "zeropod.ctrox.dev/"

OTHER = sleepers.PORT + 1


def wanting(pods: Pods, **annotations: str) -> cri.Pod:
    """A pod that never sleeps by itself and has these annotations."""
    wanted = {"scaledown-duration": "1h"}
    wanted |= {name.replace("_", "-"): value for name, value in annotations.items()}
    return pods(annotations={PREFIX + name: value for name, value in wanted.items()})
