"""When a pod's ports last saw payload, from the clocks that the programs keep."""

from __future__ import annotations

from collections.abc import Iterable

from bpf.maps import WENT, Times
from redirector.endpoints import Activity, Port
from redirector.podstate import PodState

REST = (Port("tcp", 0), Port("udp", 0))
"""All ports that were never asked for to be kept; their `last_out` only. What somebody sent from a port that is closed
again is seen here."""


def read(
    state: PodState, ports: Iterable[Port], kept: Iterable[Port] = ()
) -> dict[Port, Activity]:
    """Return when each port last saw payload, in either direction.

    Args:
        state: the pod.
        ports: of interest now.
        kept: ports whose clocks shall not be forgotten from now on; each other one may be when the node has a few
            thousand that are younger.
    """
    for port in kept:
        state.keep(port)
    found = {port: _times(state, port) for port in ports}
    return {port: Activity(times.last_in, times.last_out) for port, times in found.items()}


def callers(state: PodState, ports: Iterable[Port]) -> set[Port]:
    """Return the ports from which the pod has sent before anything came."""
    return {port for port in ports if _times(state, port).first == WENT}


def _times(state: PodState, port: Port) -> Times:
    """Of both maps: a frame may have been noted in the other one while the port was being moved."""
    tables, key = state.registry.maps, state.port_key(port)
    last_in, last_out, first = 0, 0, 0
    for found in (tables.passing.get(key), tables.activity.get(key)):
        if found is not None:
            ours = [time if time >= state.born else 0 for time in found[:2]]
            last_in, last_out = max(last_in, ours[0]), max(last_out, ours[1])
            if ours == [*found[:2]]:
                first = first or found.first
    return Times(last_in, last_out, first)
