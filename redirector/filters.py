"""tc filters in the namespace the calling thread is in, through pyroute2 (13 MB, so imported late)."""

from __future__ import annotations

import contextlib
import errno
import logging
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

from redirector.errors import AttachError

PRIORITY = 0x7A50
"""Our place among the filters of an interface: before those without a number of their own (49152)."""

HANDLE = 0x7A50
"""Our handle within the priority, so that a replacement hits ours and nobody else's."""

PREFIX = "zeropod_"
"""Our filters are named zeropod_PROGRAM:MAPS:BUILD, MAPS being the kernel's number of a map."""

Direction = Literal["ingress", "egress"]
_PARENTS: dict[Direction, int] = {
    "ingress": 0xFFFFFFF2,
    "egress": 0xFFFFFFF3,
}  # TC_H_CLSACT, linux/pkt_sched.h


_TC_H_ROOT = 0xFFFFFFFF  # linux/pkt_sched.h


class Filter(NamedTuple):
    """A filter of ours: which program it runs for which pod or hold."""

    name: str
    classid: int
    fd: int = -1


@contextlib.contextmanager
def netlink() -> Iterator[Any]:
    """Open an IPRoute of the thread's network namespace.

    Raises:
        AttachError: pyroute2 is missing, or the kernel refused a request.
    """
    try:
        from pyroute2 import IPRoute, NetlinkError  # noqa: PLC0415 - only while something is attached
    except ImportError as error:
        message = "pyroute2 is missing: pip install pyroute2"
        raise AttachError(message) from error
    # At DEBUG it prints every message it parses, some 40 lines for one filter.
    logging.getLogger("pyroute2").setLevel(logging.WARNING)
    try:
        with IPRoute() as route:
            yield route
    except NetlinkError as error:
        message = f"tc: {error}"
        raise AttachError(message) from error


def _attributes(filter_message: Any) -> dict[str, Any]:
    options = filter_message.get_attr("TCA_OPTIONS")
    return dict(options["attrs"]) if options is not None else {}


def ours(route: Any, ifindex: int, direction: Direction) -> Filter | None:
    """Return our filter of an interface, if there is one."""
    for message in route.get_filters(index=ifindex, parent=_PARENTS[direction]):
        if message["handle"] != HANDLE or message.get_attr("TCA_KIND") != "bpf":
            continue
        found = _attributes(message)
        name = str(found.get("TCA_BPF_NAME", ""))
        if name.startswith(PREFIX):
            return Filter(name, int(found.get("TCA_BPF_CLASSID", 0)))
    return None


def add_clsact(route: Any, ifindex: int) -> None:
    """Make room for filters. A clsact (or ingress) that is there already is used, whoever made it."""
    from pyroute2 import NetlinkError  # noqa: PLC0415

    try:
        route.tc("add", "clsact", ifindex)
    except NetlinkError as error:
        if error.code != errno.EEXIST:
            raise


def set_noqueue(route: Any, ifindex: int) -> None:
    """Take the queueing discipline from a link that has a queue of its own, as a TAP does.

    The default one reserves three more of that length (pfifo_fast: 24 bytes a frame), and some
    (fq_codel) drop what has waited.
    """
    route.tc("replace", "noqueue", ifindex, parent=_TC_H_ROOT)


def put(route: Any, ifindex: int, direction: Direction, wanted: Filter) -> bool:
    """Attach `wanted`, replacing in one step what we had there; False if it was there already."""
    if ours(route, ifindex, direction) == wanted._replace(fd=-1):
        return False
    route.tc(
        "replace-filter",
        "bpf",
        ifindex,
        HANDLE,
        fd=wanted.fd,
        name=wanted.name,
        parent=_PARENTS[direction],
        classid=wanted.classid,
        prio=PRIORITY,
        direct_action=True,
    )
    return True


def remove(route: Any, ifindex: int, direction: Direction) -> None:
    """Remove our filter; the clsact stays, others may have come to use it."""
    if ours(route, ifindex, direction) is not None:
        parent = _PARENTS[direction]
        route.tc("del-filter", "bpf", ifindex, HANDLE, parent=parent, prio=PRIORITY)
