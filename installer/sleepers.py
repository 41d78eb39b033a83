"""Which containers are not running at this moment: asleep, ended or frozen by the daemon, or on their way there or back.

Told by the name under which each supervisor shows its state. Whoever else calls itself so is known neither to the
daemon's records nor to its images, which are root's alone. No daemon is needed for it.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

from installer.host import Host

RECORDS = "/run/zeropod/containers"
IMAGES = "/var/lib/zeropod/images"
AWAY = ("zeropod:armed", "zeropod:asleep", "zeropod:ending", "zeropod:off", "zeropod:frozen")


@dataclasses.dataclass(frozen=True, order=True)
class Sleeper:
    """A container whose application is away.

    Attributes:
        title: `namespace/pod/container`, or what else is known of it.
        pid: Of its supervisor on the node.
        how: asleep, off, frozen or the like.
    """

    title: str
    pid: int
    how: str


def find(host: Host) -> list[Sleeper]:
    """Return them by name."""
    records = {record.get("pid"): record for record in map(_json, _listed(host, RECORDS))}
    images = [path.name for path in _listed(host, IMAGES)]
    found = []
    for process in _listed(host, "/proc"):
        how = _read(process / "comm").strip()
        if not process.name.isdigit() or how not in AWAY:
            continue
        title, pid = "", int(process.name)
        record = records.get(pid, {})
        if record and record.get("start_time") == _started(process):
            title = "/".join(str(record.get(key, "?")) for key in ("namespace", "pod", "name"))
        else:
            groups = _read(process / "cgroup")
            title = next((f"container {image}" for image in images if image in groups), "")
        if title:
            found.append(Sleeper(title, pid, how.partition(":")[2]))
    return sorted(found)


def shown(found: list[Sleeper]) -> str:
    """Return their names for a message, not too many."""
    names = [one.title for one in found]
    more = f" and {len(names) - 10} more" if len(names) > 10 else ""
    return ", ".join(names[:10]) + more


def _listed(host: Host, path: str) -> list[Path]:
    try:
        return sorted(host.real(path).iterdir())
    except OSError:
        return []


def _json(path: Path) -> dict[str, object]:
    try:
        found = json.loads(_read(path) or "{}")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _started(process: Path) -> int:
    """Return when a process started: with its pid, its identity."""
    words = _read(process / "stat").rpartition(")")[2].split()
    return int(words[19]) if len(words) > 19 else 0
