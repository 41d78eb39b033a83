"""Whose traffic is neither activity nor a wake: scrapers, load balancers' checks."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from typing import NamedTuple, Self

from bpf.maps import Network, pack_address

_MAPPED = ipaddress.IPv6Network("::ffff:0:0/96")


class Ignored(NamedTuple):
    """Networks of peers that a pod does not want to be kept awake or woken by; IPv4-mapped ones are IPv4."""

    networks: frozenset[Network] = frozenset()

    @classmethod
    def of(cls, networks: Iterable[str]) -> Self:
        """From CIDRs as people write them.

        Raises:
            ValueError: one of them is none.
        """
        return cls(frozenset(map(_network, networks)))

    def has(self, peer: bytes) -> bool:
        """Tell whether a peer is ignored, by its 16 bytes (IPv4 mapped)."""
        if not self.networks:
            return False
        address = ipaddress.IPv6Address(peer)
        plain = address.ipv4_mapped or address
        return any(plain in network for network in self.networks)

    def has_ip(self, ip: str) -> bool:
        """Tell the same of an address as text."""
        return bool(self.networks) and self.has(pack_address(ip))


def _network(text: str) -> Network:
    network = ipaddress.ip_network(text, strict=False)
    if isinstance(network, ipaddress.IPv6Network) and network.subnet_of(_MAPPED):
        first = network.network_address.ipv4_mapped
        return ipaddress.IPv4Network(f"{first}/{network.prefixlen - 96}")
    return network
