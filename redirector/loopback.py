"""lo's sysctls, for as long as frames that were held are written back to it; of the thread's network namespace."""

from __future__ import annotations

from redirector import links
from redirector.registry import Loopback

_SYSCTLS = ("net/ipv4/conf/lo/route_localnet", "net/ipv4/conf/lo/accept_local")
"""A frame written back to lo has lost the route it was sent with; without these the kernel takes a
127.0.0.1 from "outside" for a martian and drops it."""


def opened(*, heir: bool) -> Loopback:
    """Let frames come back to lo; return how it was before.

    Args:
        heir: It was opened by who remembered that in maps of another layout; what it was is taken for the kernel's default.

    Raises:
        OSError: a sysctl cannot be read or written.
    """
    before = [0 if heir else links.get_sysctl(name) for name in _SYSCTLS]
    for name in _SYSCTLS:
        links.set_sysctl(name, 1)
    return Loopback(True, *before)


def restore(saved: Loopback) -> None:
    """Put lo's sysctls back.

    Raises:
        OSError: one cannot be written.
    """
    for name, value in zip(_SYSCTLS, saved[1:], strict=True):
        links.set_sysctl(name, value)
