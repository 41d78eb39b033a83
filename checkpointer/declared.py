"""What a pod declares of one container, where the Kubernetes API tells."""

import dataclasses

from redirector.probes import Probe


@dataclasses.dataclass(frozen=True, slots=True)
class Declared:
    """One container as its pod's object has it.

    Attributes:
        probes: All of them.
        ready: Whether the kubelet takes it for Ready.
    """

    probes: tuple[Probe, ...] = ()
    ready: bool = True


def unknown() -> Declared | None:
    """What is known where nobody tells."""
    return None
