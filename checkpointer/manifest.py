"""What an image says about itself: a JSON file beside criu's own, written last.

It decides whether the image may be used (container, boot, kernel), what its files and the restored tree are compared
with, and what has to be put back by us. `notes` belongs to the caller.

Its first line tells version and digest of the rest. A version is another one only if a program that does not know it
would restore wrongly: names that are not known are passed over, and each version from `OLDEST` on is read, so that a
container may sleep through an upgrade.
"""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

from checkpointer import seal
from checkpointer.errors import ImageError
from checkpointer.held import Held
from checkpointer.kinds import Kind
from checkpointer.processes import Security, Tuning
from checkpointer.seal import Seal
from redirector.endpoints import Connection, Keepalive, Port, Stream

NAME = "zeropod.json"
OLDEST, VERSION = 1, 2


def boot_id() -> str:
    """Return the id of this boot: nothing in an image is worth anything on another one."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def kernel() -> str:
    """Return the kernel's release."""
    return os.uname().release


@dataclasses.dataclass(frozen=True, slots=True)
class Manifest:
    """Facts about one image.

    Attributes:
        container_id: Whose memory it is.
        boot_id: The boot that it belongs to.
        kernel: The kernel's release.
        criu: Version of the criu that wrote it.
        created: Seconds since the epoch.
        app: The application's pid inside the container.
        processes: Processes of the tree.
        tasks: Threads of the whole tree.
        pages_bytes: Memory in it, which a restore needs again.
        total_bytes: All its files.
        held: Ports and connections to hold while it sleeps.
        ipc: Whether the tree lives in the container's ipc namespace; not if criu keeps its SysV memory.
        pipes: Inodes of the supervisor's stdio pipes at the dump, by descriptor.
        cgroups: Directories by hierarchy.
        security: Rights of every thread, by its id inside.
        tuning: What criu does not bring back, for the threads that have something of their own.
        files: What its files were; none in version 1.
        notes: The caller's.
    """

    container_id: str
    boot_id: str
    kernel: str
    criu: str
    created: float
    app: int
    processes: int
    tasks: int
    pages_bytes: int
    total_bytes: int
    held: Held
    ipc: bool
    pipes: dict[int, str]
    cgroups: dict[str, str]
    security: dict[int, Security]
    tuning: dict[int, Tuning]
    notes: dict[str, Any]
    files: dict[str, Seal] = dataclasses.field(default_factory=dict)

    def encode(self) -> bytes:
        """Return the manifest as JSON; threads with equal rights share one entry."""
        threads: dict[Security, list[int]] = {}
        for tid, facts in self.security.items():
            threads.setdefault(facts, []).append(tid)
        plain = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        plain |= {
            "held": {
                "ports": sorted(self.held.ports),
                "connections": sorted(self.held.connections),
                "streams": sorted(self.held.streams.items()),
            },
            "security": [{"tids": tids, **facts._asdict()} for facts, tids in threads.items()],
            "tuning": {tid: value._asdict() for tid, value in self.tuning.items()},
        }
        body = json.dumps(plain, indent=1).encode()
        return (
            json.dumps({"version": VERSION, "digest": seal.digest(body)}).encode() + b"\n" + body
        )

    @classmethod
    def decode(cls, data: bytes) -> Manifest:
        """Read a manifest back.

        Raises:
            ImageError: it is not one of ours, damaged, or from a later version of this program.
        """
        try:
            plain = _body(data)
            held = plain.pop("held")
            known = {field.name for field in dataclasses.fields(cls)}
            return cls(
                held=Held(
                    frozenset(Port(*port) for port in held["ports"]),
                    frozenset(Connection(*ends) for ends in held["connections"]),
                    # Images from before there were keepalives have none.
                    streams=dict(_stream(*pair) for pair in held.get("streams", ())),
                ),
                pipes={int(fd): name for fd, name in plain.pop("pipes").items()},
                security=_security(plain.pop("security")),
                tuning=_tuning(plain.pop("tuning")),
                files={name: Seal(*sealed) for name, sealed in plain.pop("files", {}).items()},
                **{name: value for name, value in plain.items() if name in known},
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ImageError(f"the image's manifest is damaged: {error!r}") from error


def _body(data: bytes) -> dict[str, Any]:
    """Return what follows the first line, if that agrees."""
    first, _, body = data.partition(b"\n")
    whole = first == b"{"  # version 1 was one object
    head: dict[str, Any] = json.loads(data if whole else first)
    version = head.pop("version")
    if not OLDEST <= version <= VERSION:
        raise ImageError(
            f"the image was written by another version of zeropod (format {version}, and this one knows {OLDEST} to "
            f"{VERSION}); install that version again, and its container can wake",
            kind=Kind.IMAGE_VERSION,
        )
    if whole:
        return head
    if head["digest"] != seal.digest(body):
        raise ImageError("the image's manifest is damaged: it has another content than it had")
    found: dict[str, Any] = json.loads(body)
    return found


def _stream(ends: list[Any], numbers: list[Any]) -> tuple[Connection, Stream]:
    stream = Stream(*numbers)
    wish = stream.keepalive
    return Connection(*ends), stream._replace(keepalive=wish and Keepalive(*wish))


def _security(entries: list[dict[str, Any]]) -> dict[int, Security]:
    found = {}
    for entry in entries:
        tids = entry.pop("tids")
        facts = Security(**entry)
        found.update(dict.fromkeys(tids, facts))
    return found


def _tuning(entries: dict[str, dict[str, Any]]) -> dict[int, Tuning]:
    found = {}
    for tid, entry in entries.items():
        affinity = tuple(entry.pop("affinity"))
        found[int(tid)] = Tuning(affinity=affinity, **entry)
    return found
