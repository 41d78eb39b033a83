"""One managed container while the daemon runs: its record and the kernel objects that are held for it."""

import dataclasses
import threading
import time
from collections.abc import Callable

from checkpointer import (
    cell,
    cgroups,
    containers,
    cpu,
    descriptors,
    errors,
    images,
    lazy,
    lifecycle,
    processes,
    supervisor,
)
from checkpointer.declared import Declared, unknown
from checkpointer.doze import Dozes
from checkpointer.tally import Tally
from redirector.endpoints import Connection, Port
from redirector.hold import Hold
from redirector.pod import Pod
from redirector.probes import Rules


@dataclasses.dataclass(slots=True)
class Times:
    """What the last sleep and wake cost; milliseconds by phase, phases add up to the total."""

    sleep: dict[str, float] = dataclasses.field(default_factory=dict)
    wake: dict[str, float] = dataclasses.field(default_factory=dict)
    wake_cause: str = ""
    sleeps: int = 0
    wakes: int = 0

    @staticmethod
    def total(phases: dict[str, float]) -> float:
        """Milliseconds of all phases."""
        return sum(phases.values())


@dataclasses.dataclass(slots=True)
class Container:
    """What is known of a container and held for it.

    Attributes:
        record: Who it is.
        pod: Its pod's datapath.
        life: Where it stands.
        since: Epoch seconds of the last transition.
        active: Monotonic seconds of its start or last wake.
        woke: Monotonic seconds of its last wake, a dry run's too; 0 = none since the daemon took it over.
        quiet: Monotonic seconds: traffic after this calls the sleep off that is being tried.
        hold: Its packets, while it sleeps or is about to.
        image: Its committed image, while it sleeps or its pages are still being drained.
        mode: How it sleeps, or did last.
        drain: Its page daemon, while pages are still being brought in.
        spoken: Connections that cannot go on from its image, because something was said on them since.
        watching: Whether it watches files by inotify.
        watched: Where, as far as criu has to be told, when last looked for.
        ports: Those on which it listens, when last looked at.
        meter: What CPU it uses.
        tally: What was counted since the daemon took it over.
        dozes: The same of its dry run.
        called_off: Set when a sleep must stop before its commit; says why in `off_cause`.
        hitch: Why its last sleep was not quite as its owner wants it; "" = it was.
        unheard: Ports on which its application did not listen within a minute of being started afresh.
        freed: Bytes that it gave back by being ended, without an image that could tell.
        declares: Asked for what its pod declares of it.
        vouched: What the responder was told to answer for it, by port.
        closing: Set when the daemon goes down: what may take long is left to its successor.
    """

    record: containers.Record
    pod: Pod
    life: lifecycle.Life = dataclasses.field(default_factory=lifecycle.Life)
    since: float = dataclasses.field(default_factory=time.time)
    active: float = dataclasses.field(default_factory=time.monotonic)
    woke: float = 0.0
    quiet: float = 0.0
    hold: Hold | None = None
    image: images.Image | None = None
    mode: lifecycle.Mode = lifecycle.Mode.IMAGE
    drain: lazy.Drain | None = None
    spoken: frozenset[Connection] = frozenset()
    times: Times = dataclasses.field(default_factory=Times)
    meter: cpu.Meter = dataclasses.field(default_factory=cpu.Meter)
    tally: Tally = dataclasses.field(default_factory=Tally)
    dozes: Dozes = dataclasses.field(default_factory=Dozes)
    ports: frozenset[Port] = frozenset()
    watching: bool = False
    watched: dict[descriptors.Watch, str] = dataclasses.field(default_factory=dict)
    busy: str = ""
    look_at: float = 0.0
    called_off: threading.Event = dataclasses.field(default_factory=threading.Event)
    off_cause: str = ""
    hitch: str = ""
    unheard: frozenset[Port] = frozenset()
    freed: int = 0
    declares: Callable[[], Declared | None] = unknown
    vouched: dict[int, Rules] = dataclasses.field(default_factory=dict)
    closing: threading.Event = dataclasses.field(default_factory=threading.Event)

    @property
    def target(self) -> supervisor.Target:
        """What the engine needs to know of it."""
        return supervisor.Target(self.record.id, self.record.pid)

    @property
    def heeded(self) -> frozenset[Port]:
        """Its ports whose traffic is activity and wakes it."""
        return frozenset(filter(self.record.policy.heeds, self.ports))

    @property
    def unheeded(self) -> frozenset[Port]:
        """The others: what comes to them is held with the rest, and wakes nobody."""
        return self.ports - self.heeded

    def sessions(self) -> list[int]:
        """Processes in the container that are not the application's: those of kubectl exec, and what they left."""
        application = self.supervisor.application()
        tree = {self.record.pid, *(processes.tree(application) if application else ())}
        group = cgroups.of(self.record.pid).controller("pids")
        if group is None:
            return []
        inside = map(int, (group / "cgroup.procs").read_text().split())
        return [pid for pid in inside if pid not in tree]

    def alone(self) -> bool:
        """Whether no other container of its pod runs, but the one that holds the pod's namespaces."""
        group = cgroups.of(self.record.pid).controller("pids")
        return group is not None and cgroups.inhabited(group.parent) <= 2

    def fail(self) -> None:
        """Have the supervisor end with 71, so that the kubelet restarts the container."""
        while self.record.alive():
            try:
                self.supervisor.tell(supervisor.Signal.FAIL, None)
            except errors.SupervisorError:
                # A CPU limit can stop it for seconds; until it ends, the kubelet takes it for running.
                time.sleep(1.0)

    @property
    def supervisor(self) -> supervisor.Supervisor:
        """Its PID 1."""
        restarts = self.record.policy.disable_checkpointing
        return supervisor.Supervisor(self.record.pid, restarts=restarts)

    @property
    def cell(self) -> cell.Cell:
        """The cgroup of its application alone; see there what it raises."""
        return cell.Cell.of(self.record.id, self.record.pid)
