"""Containers that are to be managed, and how to see that they are."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from dev import cri
from nri_plugin import injection

WANTED = {"zeropod.ctrox.dev/scaledown-duration": "0"}
SHELL = "localhost/busybox:1"
FOREVER = ["sleep", "100000"]


def executable(container: cri.Container) -> str:
    """What PID 1 of a container executes."""
    return os.readlink(f"/proc/{container.pid}/exe")


def supervised(container: cri.Container) -> bool:
    """Whether PID 1 is the supervisor; a start is told before the program is executed, in the place of runc."""
    cri.until(lambda: "runc" not in executable(container), 30)
    return executable(container) == "/.zeropod/init"


def injected(record: Any) -> bool:
    """Whether a record names the supervisor."""
    return injection.present(json.loads(record.spec.value), Path("/opt/zeropod/container"))


def untouched(record: Any) -> bool:
    """Whether a record is as containerd made it: never updated, and without a trace of us."""
    return record.created_at == record.updated_at and b"zeropod/init" not in record.spec.value
