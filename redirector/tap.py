"""The device that a sleeping container's frames wait in."""

from __future__ import annotations

import os

from redirector import filters, links
from redirector.filters import Filter
from redirector.settings import Settings

_READ = links.VNET_HEADER + 14 + 65536


class Tap:
    """A TAP in a pod's namespace. It is up as long as it exists, and exists as long as its `fd`."""

    def __init__(self, fd: int, name: str, ifindex: int) -> None:
        self.fd = fd
        self.name = name
        self.ifindex = ifindex

    @classmethod
    def make(cls, ingress: Filter, egress: Filter, settings: Settings) -> Tap:
        """Create the device in the thread's network namespace, with its two filters, and bring it up.

        Raises:
            OSError: there is no /dev/net/tun.
            AttachError: the filters were refused.
        """
        tap = cls(*links.make_tap())
        try:
            with filters.netlink() as route:
                filters.add_clsact(route, tap.ifindex)
                filters.put(route, tap.ifindex, "ingress", ingress)
                filters.put(route, tap.ifindex, "egress", egress)
                filters.set_noqueue(route, tap.ifindex)
            links.set_up(tap.name, txqueuelen=settings.tap_frames)
        except BaseException:
            tap.close()
            raise
        return tap

    def read(self) -> bytes | None:
        """Return the next frame, virtio header in front, or None when there is none now."""
        try:
            return os.read(self.fd, _READ)
        except BlockingIOError:
            return None

    def write(self, frame: bytes) -> bool:
        """Give a frame back as it was read; False when the kernel does not take it."""
        try:
            os.write(self.fd, frame)
        except OSError:
            return False
        return True

    def close(self) -> None:
        """Remove the device; frames still on their way to it are dropped."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
