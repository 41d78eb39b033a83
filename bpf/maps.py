"""Typed handles of the pinned maps: how each struct of maps.h is packed.

A handle is a mapping of one Python type to another; the packing stands in the two tables beside the
C struct's name. The loader compares the sizes with the compiler's.
"""

from __future__ import annotations

import ipaddress
import socket
import struct
from collections.abc import Callable, Iterator
from typing import Generic, Literal, NamedTuple, TypeVar

from bpf import syscall

K = TypeVar("K")
V = TypeVar("V")

MAX_HOLDS = 4096
MAX_IFACES = 4
MAX_SLOTS = 65535

MODE_OFF = 0
MODE_SYNS = 1
MODE_EVERYTHING = 2
MODE_SET = 3
MODE_LIVE = 4
MODE_SCOPE = 0x0F
MODE_DRAIN = 0x80

CAME = 1
WENT = 2

Protocol = Literal["tcp", "udp"]
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
PROTOCOLS: dict[Protocol, int] = {"tcp": 6, "udp": 17}
_PROTOCOL_NAMES = {number: name for name, number in PROTOCOLS.items()}
_V4_MAPPED = bytes(10) + b"\xff\xff"


class Layout(NamedTuple):
    """A map's name and the packing of its key and value; native order, explicit padding."""

    name: str
    key: struct.Struct
    value: struct.Struct


_U32 = struct.Struct("=I")
_NAME = struct.Struct("=4Q96s")  # struct name
PODS = Layout("pods", _U32, struct.Struct("=IIIII4xQQ" + "I6s2x" * MAX_IFACES))
PORTS = Layout("ports", struct.Struct("=HHB3x"), _U32)
CONNS = Layout("conns", struct.Struct("=16s16sHHHBx"), _U32)
NETWORKS = Layout("networks", struct.Struct("=II16s"), _U32)
STREAMS = Layout("streams", CONNS.key, struct.Struct("=QQIIIIBBB5x"))
HOLDS = Layout("holds", _U32, struct.Struct("=IIQII"))
COUNTS = Layout("counts", _U32, struct.Struct("=QQQ"))
ACTIVITY = Layout("activity", PORTS.key, struct.Struct("=QQI4x"))
PASSING = Layout("passing", ACTIVITY.key, ACTIVITY.value)
TALKS = Layout("talks", CONNS.key, struct.Struct("=QQ"))
PINGED = Layout("pinged", _U32, struct.Struct("=Q"))
FRAGS = Layout("frags", struct.Struct("=16s16sIHBx"), _U32)
CALLS = Layout("calls", struct.Struct("=16s16sHH"), struct.Struct("=II"))
POD_NAMES = Layout("pod_names", _U32, _NAME)
HOLD_NAMES = Layout("hold_names", _U32, _NAME)
LAYOUTS = (
    *(PODS, PORTS, CONNS, NETWORKS, STREAMS, HOLDS, COUNTS),
    *(ACTIVITY, PASSING, TALKS, PINGED, FRAGS, CALLS, POD_NAMES, HOLD_NAMES),
)


class PortKey(NamedTuple):
    """struct port_key: one local port of a pod."""

    slot: int
    proto: Protocol
    port: int


class ConnKey(NamedTuple):
    """struct conn_key: one connection of a pod, addresses as text."""

    slot: int
    proto: Protocol
    local_ip: str
    local_port: int
    remote_ip: str
    remote_port: int


class NetworkKey(NamedTuple):
    """struct network_key: a network that a pod ignores."""

    slot: int
    network: Network


class Iface(NamedTuple):
    """struct iface: an Ethernet link of the pod."""

    ifindex: int
    mac: bytes


class PodEntry(NamedTuple):
    """struct pod. `quarantine` and `born` are nanoseconds of CLOCK_MONOTONIC."""

    holds: int = 0
    everything: int = 0
    fallback: int = 0
    ignores: int = 0
    calls: int = 0
    quarantine: int = 0
    born: int = 0
    ifaces: tuple[Iface, ...] = ()


class HoldEntry(NamedTuple):
    """struct hold."""

    tap: int
    mode: int
    confirmed: int
    slot: int
    responder: int = 0


class StreamEntry(NamedTuple):
    """struct stream. `answered` and `heard` are nanoseconds of CLOCK_MONOTONIC, 0 for never."""

    snd_nxt: int
    rcv_nxt: int
    window: int
    shift: int
    tsval: int | None
    settled: bool = True
    answered: int = 0
    heard: int = 0


class Counts(NamedTuple):
    """struct counts: frames, since the hold was made."""

    redirected: int = 0
    replayed: int = 0
    answered: int = 0


class Times(NamedTuple):
    """struct activity: nanoseconds of CLOCK_MONOTONIC, 0 for never; CAME or WENT, 0 if neither yet."""

    last_in: int
    last_out: int
    first: int = 0


class Talk(NamedTuple):
    """struct talk: nanoseconds of CLOCK_MONOTONIC, 0 for never."""

    last_in: int
    last_out: int


class CallKey(NamedTuple):
    """struct call_key: a connection that the kubelet has opened, addresses as text."""

    source_ip: str
    source_port: int
    target_ip: str
    target_port: int


class Call(NamedTuple):
    """struct call: whether its own end is closed, and for which hold somebody else answers it, 0 for none."""

    closed: int = 0
    hold: int = 0


class Owner(NamedTuple):
    """struct name: who owns a slot or a hold, and up to four numbers of the owner's."""

    text: str
    values: tuple[int, int, int, int] = (0, 0, 0, 0)


def pack_address(text: str) -> bytes:
    """Return the 16 bytes of an address; IPv4 and its mapped form are the same."""
    if ":" in text:
        return socket.inet_pton(socket.AF_INET6, text.partition("%")[0])
    return _V4_MAPPED + socket.inet_pton(socket.AF_INET, text)


def unpack_address(packed: bytes) -> str:
    """Return the text of 16 bytes, IPv4 where it is mapped."""
    if packed.startswith(_V4_MAPPED):
        return socket.inet_ntop(socket.AF_INET, packed[12:])
    return socket.inet_ntop(socket.AF_INET6, packed)


def _pack_u32(value: int) -> bytes:
    return _U32.pack(value)


def _unpack_u32(data: bytes) -> int:
    return int(_U32.unpack(data)[0])


def _pack_port(key: PortKey) -> bytes:
    return PORTS.key.pack(key.slot, key.port, PROTOCOLS[key.proto])


def _unpack_port(data: bytes) -> PortKey:
    slot, port, proto = PORTS.key.unpack(data)
    return PortKey(slot, _PROTOCOL_NAMES[proto], port)


def _pack_conn(key: ConnKey) -> bytes:
    local, remote = pack_address(key.local_ip), pack_address(key.remote_ip)
    numbers = (key.local_port, key.remote_port, key.slot, PROTOCOLS[key.proto])
    return CONNS.key.pack(local, remote, *numbers)


def _unpack_conn(data: bytes) -> ConnKey:
    local, remote, lport, rport, slot, proto = CONNS.key.unpack(data)
    ends = (unpack_address(local), lport, unpack_address(remote), rport)
    return ConnKey(slot, _PROTOCOL_NAMES[proto], *ends)


def _pack_call(key: CallKey) -> bytes:
    ends = (pack_address(key.source_ip), pack_address(key.target_ip))
    return CALLS.key.pack(*ends, key.source_port, key.target_port)


def _unpack_call(data: bytes) -> CallKey:
    source, target, sport, dport = CALLS.key.unpack(data)
    return CallKey(unpack_address(source), sport, unpack_address(target), dport)


def _pack_network(key: NetworkKey) -> bytes:
    first = pack_address(str(key.network.network_address))
    bits = 128 - key.network.max_prefixlen + key.network.prefixlen
    return NETWORKS.key.pack(32 + bits, key.slot, first)


def _unpack_network(data: bytes) -> NetworkKey:
    bits, slot, first = NETWORKS.key.unpack(data)
    text = unpack_address(first)
    bits -= 32 if ":" in text else 32 + 96
    return NetworkKey(slot, ipaddress.ip_network(f"{text}/{bits}"))


def _pack_stream(entry: StreamEntry) -> bytes:
    uses_timestamps = entry.tsval is not None
    numbers = (entry.snd_nxt, entry.rcv_nxt, entry.window, entry.tsval or 0)
    flags = (uses_timestamps, entry.shift, entry.settled)
    return STREAMS.value.pack(entry.answered, entry.heard, *numbers, *flags)


def _unpack_stream(data: bytes) -> StreamEntry:
    answered, heard, *numbers = STREAMS.value.unpack(data)
    snd_nxt, rcv_nxt, window, tsval, uses_timestamps, shift, settled = numbers
    clock = tsval if uses_timestamps else None
    return StreamEntry(snd_nxt, rcv_nxt, window, shift, clock, bool(settled), answered, heard)


def _pack_pod(pod: PodEntry) -> bytes:
    ifaces = (*pod.ifaces, *[Iface(0, b"")] * (MAX_IFACES - len(pod.ifaces)))
    flat = [field for iface in ifaces for field in iface]
    return PODS.value.pack(*pod[:7], *flat)


def _unpack_pod(data: bytes) -> PodEntry:
    holds, everything, fallback, ignores, calls, quarantine, born, *flat = PODS.value.unpack(data)
    pairs = zip(flat[::2], flat[1::2], strict=True)
    ifaces = tuple(Iface(index, mac) for index, mac in pairs if index)
    return PodEntry(holds, everything, fallback, ignores, calls, quarantine, born, ifaces)


def _pack_owner(owner: Owner) -> bytes:
    text = owner.text.encode()
    if len(text) > 96:
        message = f"name is longer than 96 bytes: {owner.text}"
        raise ValueError(message)
    return _NAME.pack(*owner.values, text)


def _unpack_owner(data: bytes) -> Owner:
    *values, text = _NAME.unpack(data)
    return Owner(text.rstrip(b"\0").decode(), (values[0], values[1], values[2], values[3]))


class Map(Generic[K, V]):
    """One pinned map, by descriptor. Every method is one system call (`items`: two per entry)."""

    def __init__(
        self,
        fd: int,
        layout: Layout,
        *,
        key: tuple[Callable[[K], bytes], Callable[[bytes], K]],
        value: tuple[Callable[[V], bytes], Callable[[bytes], V]],
    ) -> None:
        self.fd = fd
        self._layout = layout
        self._pack_key, self._unpack_key = key
        self._pack, self._unpack = value

    def get(self, key: K) -> V | None:
        """Return the value of `key`, or None."""
        data = syscall.bpf_map_lookup(self.fd, self._pack_key(key), self._layout.value.size)
        return None if data is None else self._unpack(data)

    def put(self, key: K, value: V, *, new: bool = False) -> None:
        """Store `value`; with `new`, raise FileExistsError if the key is there."""
        flags = syscall.BPF_NOEXIST if new else syscall.BPF_ANY
        syscall.bpf_map_update(self.fd, self._pack_key(key), self._pack(value), flags)

    def drop(self, key: K) -> None:
        """Remove `key` if it is there."""
        syscall.bpf_map_delete(self.fd, self._pack_key(key))

    def __iter__(self) -> Iterator[K]:
        """Iterate over the keys; all are read before the first is yielded."""
        found: list[bytes] = []
        key = syscall.bpf_map_next_key(self.fd, None, self._layout.key.size)
        while key is not None:
            found.append(key)
            key = syscall.bpf_map_next_key(self.fd, key, self._layout.key.size)
        return map(self._unpack_key, dict.fromkeys(found))

    def items(self) -> Iterator[tuple[K, V]]:
        """Iterate over keys and values; entries that vanish meanwhile are left out."""
        for key in self:
            value = self.get(key)
            if value is not None:
                yield key, value


_INDEX = (_pack_u32, _unpack_u32)
_PORT = (_pack_port, _unpack_port)
_OWNER = (_pack_owner, _unpack_owner)


class Maps:
    """All maps of the datapath, opened by `descriptor(name)`."""

    def __init__(self, descriptor: Callable[[str], int]) -> None:
        def fd(layout: Layout) -> int:
            return descriptor(layout.name)

        self.pods = Map(fd(PODS), PODS, key=_INDEX, value=(_pack_pod, _unpack_pod))
        self.ports = Map(fd(PORTS), PORTS, key=_PORT, value=_INDEX)
        conn = (_pack_conn, _unpack_conn)
        self.conns = Map(fd(CONNS), CONNS, key=conn, value=_INDEX)
        network = (_pack_network, _unpack_network)
        self.networks = Map(fd(NETWORKS), NETWORKS, key=network, value=_INDEX)
        stream = (_pack_stream, _unpack_stream)
        self.streams = Map(fd(STREAMS), STREAMS, key=conn, value=stream)
        hold = (
            lambda entry: HOLDS.value.pack(*entry),
            lambda data: HoldEntry(*HOLDS.value.unpack(data)),
        )
        self.holds = Map(fd(HOLDS), HOLDS, key=_INDEX, value=hold)
        count = (
            lambda entry: COUNTS.value.pack(*entry),
            lambda data: Counts(*COUNTS.value.unpack(data)),
        )
        self.counts = Map(fd(COUNTS), COUNTS, key=_INDEX, value=count)
        times = (
            lambda entry: ACTIVITY.value.pack(*entry),
            lambda data: Times(*ACTIVITY.value.unpack(data)),
        )
        self.activity = Map(fd(ACTIVITY), ACTIVITY, key=_PORT, value=times)
        self.passing = Map(fd(PASSING), PASSING, key=_PORT, value=times)
        talk = (
            lambda entry: TALKS.value.pack(*entry),
            lambda data: Talk(*TALKS.value.unpack(data)),
        )
        self.talks = Map(fd(TALKS), TALKS, key=conn, value=talk)
        time = (PINGED.value.pack, lambda data: int(PINGED.value.unpack(data)[0]))
        self.pinged = Map(fd(PINGED), PINGED, key=_INDEX, value=time)
        call = (
            lambda entry: CALLS.value.pack(*entry),
            lambda data: Call(*CALLS.value.unpack(data)),
        )
        self.calls = Map(fd(CALLS), CALLS, key=(_pack_call, _unpack_call), value=call)
        self.pod_names = Map(fd(POD_NAMES), POD_NAMES, key=_INDEX, value=_OWNER)
        self.hold_names = Map(fd(HOLD_NAMES), HOLD_NAMES, key=_INDEX, value=_OWNER)
