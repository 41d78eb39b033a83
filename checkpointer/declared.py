"""What a pod declares of one container, where the Kubernetes API tells."""

import dataclasses

from redirector.probes import Probe


@dataclasses.dataclass(frozen=True, slots=True)
class Declared:
    """One container as its pod's object has it.

    Attributes:
        probes: All of them.
        ready: Whether the kubelet takes it for Ready.
        leaving: Whether its pod is being deleted.
    """

    probes: tuple[Probe, ...] = ()
    ready: bool = True
    leaving: bool = False


def unknown() -> Declared | None:
    """What is known where nobody tells."""
    return None
