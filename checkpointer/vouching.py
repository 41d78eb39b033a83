"""What is answered to the kubelet for a container that cannot be asked: decided here, told to the responder beforehand.

The responder answers also while there is no daemon, by what it was told last.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from checkpointer import lifecycle
from checkpointer.container import Container
from checkpointer.declared import Declared
from checkpointer.images import Image
from checkpointer.lifecycle import State
from redirector.endpoints import Port
from redirector.probes import Fitness, Rules

GAP = 30.0
"""Seconds for which a node may be without a daemon in an upgrade."""


def fitness(life: lifecycle.Life, *, sound: bool) -> Fitness:
    """Say what a container is good for that is at rest, or on its way there or back.

    Args:
        life: Where it stands.
        sound: The node could wake it: image, disk and helpers are as they should be.
    """
    if life.state is State.GONE:
        return Fitness.BROKEN
    failing = life.state is State.WAKING and (life.failed_wakes or life.reason)
    return Fitness.READY if sound and not failing else Fitness.ALIVE


def intact(image: Image | None) -> bool:
    """Whether an image is where it was; True where there is none to look at."""
    return image is None or image.path.is_dir()


def rules(
    ports: Iterable[Port], declared: Declared | None, fit: Fitness = Fitness.READY
) -> dict[int, Rules]:
    """Say what to answer on each TCP port."""
    probes = None if declared is None else declared.probes
    return {port.number: Rules(probes, fit) for port in ports if port.proto == "tcp"}


def tell(container: Container, fit: Fitness = Fitness.READY, *, anew: bool = False) -> None:
    """Tell the responder, if that is news to it. Blocking.

    Args:
        container: Whose packets are held, or are about to be.
        fit: What it is good for.
        anew: The responder may have forgotten.
    """
    wanted = rules(container.ports, container.declares(), fit)
    if anew or wanted != container.vouched:
        container.pod.answer(wanted)
        container.vouched = wanted


def look(containers: Iterable[Container], *, able: bool, anew: bool) -> None:
    """Tell the responder what has changed of containers whose packets are held. Blocking.

    Args:
        containers: All of a node.
        able: Whether the node could wake them.
        anew: The responder is another one.
    """
    for container in containers:
        if container.hold is not None:
            tell(container, sound(container, able=able), anew=anew)


def cannot_wait(declared: Declared | None, *, answered: bool, gap: float = GAP) -> bool:
    """Whether a container that sleeps would be restarted while there is no daemon.

    Args:
        declared: Its probes, if they are known.
        answered: Whether a responder answers for it; of exec probes none does.
        gap: Seconds.
    """
    return any(
        probe.role == "liveness"
        and (probe.kind == "exec" or not answered)
        and probe.period * probe.failures < gap
        for probe in (declared.probes if declared else ())
    )


def remarks(declared: Declared | None) -> Iterator[str]:
    """Tell of probes that wake."""
    for probe in declared.probes if declared else ():
        if probe.kind == "exec":
            yield (
                f"its {probe.role} probe starts a program in it every {probe.period:.0f} s, which wakes it; probes by httpGet, "
                "tcpSocket and grpc are answered while it sleeps"
            )


def sound(container: Container, *, able: bool) -> Fitness:
    """Look at a container's image, too. Blocking."""
    return fitness(container.life, sound=able and intact(container.image))
