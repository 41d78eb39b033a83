"""What the owner of a pod wants for one container: the values of its annotations, as the plugin has validated them.

The plugin's table of annotations (nri_plugin/annotations.py) is the source of names, meanings and defaults; a unit test
compares the two halves, since neither package imports the other.
"""

import dataclasses
from collections.abc import Collection
from typing import Any, Self

from redirector.endpoints import Port


@dataclasses.dataclass(frozen=True, slots=True)
class Policy:
    """One container's wishes.

    Attributes:
        scaledown: Seconds without traffic before it sleeps; 0 = never.
        connections: What open connections mean for a sleep: "keep" them in the image, "wait" until there are none, or
            "close" them.
        disable_checkpointing: End the application instead, and start it afresh at the wake.
        dry_run: Decide and count, and do nothing.
        wake_on_stop: Wake for a SIGTERM, so that the application shuts down as it would awake; else end at once with 0.
        on_failure: When it cannot be checkpointed: "stay" awake, or "freeze" it.
        cpu_threshold: Cores; using more keeps it awake. 0 = CPU is not looked at.
        max_request: Seconds for which an unanswered request keeps it awake.
        min_awake: Seconds it stays awake after a wake, whatever the traffic.
        max_image_size: Bytes of memory beyond which it is not put to sleep; 0 = no limit.
        ignore_from: CIDRs whose traffic is neither activity nor a wake.
        ignore_ports: Its ports whose traffic is neither activity nor a wake.
        ports: Its ports as "tcp/80", instead of those it is seen to listen on; empty = discover them.
        pre_dump: Write most of the memory before the freeze.
        lazy_restore: Load memory behind the running application: "auto" by size, "true", "false".
        probe_detection: Answer the kubelet's probes while it sleeps.
        portless: It may sleep without a listening port.
        io_uring: It may use io_uring, which cannot be checkpointed.
        notes: Sentences on annotations that were accepted and change nothing.
        wishes: The annotations that ask for more than the default, as "min-awake=5m".
        names: All containers that the pod's annotations name.
    """

    scaledown: float = 60.0
    connections: str = "keep"
    disable_checkpointing: bool = False
    dry_run: bool = False
    wake_on_stop: bool = True
    on_failure: str = "stay"
    cpu_threshold: float = 0.1
    max_request: float = 600.0
    min_awake: float = 0.0
    max_image_size: int = 0
    ignore_from: tuple[str, ...] = ()
    ignore_ports: tuple[int, ...] = ()
    ports: tuple[str, ...] = ()
    pre_dump: bool = False
    lazy_restore: str = "auto"
    probe_detection: bool = True
    portless: bool = False
    io_uring: bool = False
    notes: tuple[str, ...] = ()
    wishes: tuple[str, ...] = ()
    names: tuple[str, ...] = ()

    def heeds(self, port: Port) -> bool:
        """Whether traffic to a port on which it listens is activity and wakes it."""
        named = not self.ports or f"{port.proto}/{port.number}" in self.ports
        return named and port.number not in self.ignore_ports

    def unreachable(self, ports: Collection[Port], asking: Collection[Port] = ()) -> str:
        """Why no packet could wake it while it listens on these ports; "" if one could, or if that is wanted.

        Args:
            ports: Those that it serves.
            asking: Those that are taken for a datagram client's.
        """
        if self.portless or any(map(self.heeds, ports)):
            return ""
        if not ports and asking:
            names = ", ".join(f"udp/{port.number}" for port in sorted(asking))
            return (
                f"it listens on no port, so that no packet could wake it ({names} sent before anything came, as a client's "
                "does; if it serves, name it in zeropod.ctrox.dev/ports-map)"
            )
        if not ports:
            return "it listens on no port, so that no packet could wake it"
        if self.ports:
            return f"it listens on none of the ports that zeropod.ctrox.dev/ports-map names for it: {', '.join(self.ports)}"
        return "it listens only on ports that zeropod.ctrox.dev/ignore-ports names, so that no packet could wake it"

    @classmethod
    def read(cls, values: dict[str, Any]) -> Self:
        """From decoded JSON or a message's fields; names of another version are passed over, what is missing is the default."""
        known = {field.name for field in dataclasses.fields(cls)}
        kept: dict[str, Any] = {
            name: value if isinstance(value, str | bool | int | float) else tuple(value)
            for name, value in values.items()
            if name in known
        }
        return cls(**kept)

    @classmethod
    def of(cls, message: Any) -> Self:
        """From the Policy message of a report; what another version of the plugin did not send is the default."""
        # Lists that were sent and have items, and everything else that was sent.
        return cls.read({field.name: value for field, value in message.ListFields()})
