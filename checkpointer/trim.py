"""What criu writes into an image and no wake of ours needs: every wake would pay for it.

criu notes the cgroups of what it dumps. Told to leave cgroups alone it nevertheless prepares to restore them: it makes a
directory to mount them in, starts a process for threads that have a set of their own, and waits for its end (2 to 3 of
some 12 ms). Without sets it does nothing, and every task starts where criu is.
"""

from __future__ import annotations

import struct
from pathlib import Path

from checkpointer import held

_CGROUPS = "cgroup.img"
_MAGIC = struct.pack(
    "<II", 0x54564319, 0x59383330
)  # criu/include/magic.h: IMG_COMMON_MAGIC, CGROUP_MAGIC
_LENGTH = struct.Struct("<I")


def trim(directory: Path) -> None:
    """Leave out of an image that is not committed yet what slows its restore down."""
    path = directory / _CGROUPS
    data = path.read_bytes()
    if sets(data) == 1:
        path.write_bytes(data[: len(_MAGIC)])


def sets(data: bytes) -> int:
    """Return how many sets of cgroups a cgroup.img has; 0 if it is none that we know.

    With more than one, some task is in another cgroup than the first: a matter for criu.
    """
    body = data[len(_MAGIC) + _LENGTH.size :]
    if not data.startswith(_MAGIC) or not body:
        return 0
    return len(held.messages().cgroup_entry.FromString(body).sets)
