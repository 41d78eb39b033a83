"""What the owner of a pod should know of its annotations besides a container's state; pure."""

import difflib
from collections.abc import Collection, Iterable, Iterator

from checkpointer.policy import Policy
from redirector.endpoints import Port


def unknown(policy: Policy, seen: Collection[str]) -> Iterator[str]:
    """Tell of names that no container of the pod has had.

    Nobody tells which containers a pod has: they are seen one by one, init containers first, and one that is debugged
    with comes later. So this is never an error, and is asked when somebody reads it.

    Args:
        policy: Of any container of the pod.
        seen: Names of the pod's containers so far.
    """
    for name in policy.names:
        if name not in seen:
            free = [other for other in sorted(seen) if other not in policy.names]
            close = difflib.get_close_matches(name, free, n=1, cutoff=0.7)
            guess = f"; was {close[0]} meant?" if close else ""
            so_far = ", ".join(sorted(seen))
            yield f"its annotations name {name}, which the pod has not had so far (only {so_far}){guess}"


def silent(policy: Policy, ports: Collection[Port]) -> Iterator[str]:
    """Tell of ports that the annotations name and nobody listens on.

    Args:
        policy: Of the container.
        ports: On which it listens; none, if that is not known.
    """
    listening = _names(ports)
    for port in policy.ports if listening else ():
        if port not in listening:
            yield f"zeropod.ctrox.dev/ports-map names {port} for it, on which it does not listen: it wakes nobody"


def unheard(ports: Collection[Port]) -> str:
    """Tell of an application that was started afresh and does not listen on these ports; "" if there are none."""
    if not ports:
        return ""
    names = ", ".join(sorted(_names(ports)))
    return (
        f"it was started afresh and has not listened on {names} within a minute, as the application before it did, so that "
        "clients are refused there; its log may say why, and a restart of the container is what helps if it hangs"
    )


def _names(ports: Iterable[Port]) -> set[str]:
    return {f"{port.proto}/{port.number}" for port in ports}
