"""The facts of one image."""

from __future__ import annotations

from checkpointer import manifest, seal
from checkpointer.held import Held
from checkpointer.manifest import Manifest
from checkpointer.processes import Security, Tuning
from checkpointer.seal import Seal
from redirector.endpoints import Connection, Keepalive, Port, Stream

ID = "0123abcd"
PEER = Connection("10.0.0.1", 80, "10.0.0.2", 4711)
IDLE = Connection("fd00::1", 80, "fd00::2", 4712)
FACTS = Security(*("0\t0\t0\t0", "0\t0\t0\t0", "", "0", "0", "0", "0", "0", "0", "2", "1", ""))


def facts(container_id: str = ID) -> Manifest:
    """A manifest of an image of this boot."""
    return Manifest(
        container_id=container_id,
        boot_id=manifest.boot_id(),
        kernel=manifest.kernel(),
        criu="4.2.1",
        created=1.5,
        app=2,
        processes=1,
        tasks=3,
        pages_bytes=4096,
        total_bytes=5000,
        held=Held(
            frozenset({Port("tcp", 80), Port("udp", 53)}),
            frozenset({PEER, IDLE}),
            streams={
                PEER: Stream(1, 2, 3, 65535, 7, 99, Keepalive(15, 15, 9)),
                IDLE: Stream(1, 2, 3, 65535, 7, None, None),
            },
        ),
        ipc=True,
        pipes={1: "pipe:[77]"},
        cgroups={"memory": "/sys/fs/cgroup/memory/x", "": "/sys/fs/cgroup/unified/x"},
        security={2: FACTS, 3: FACTS, 4: FACTS._replace(uid="1\t1\t1\t1")},
        tuning={3: Tuning((0, 1), 16388, 50000)},
        notes={"pod": "default/web"},
        files={"core-2.img": Seal(3, seal.digest(b"uvw")), "pages-1.img": Seal(4096, "")},
    )
