"""Protocols that ask whether their peer is there: payload for TCP, silence for people.

The same as bpf/pings.h. Awake such a segment is no activity, or the pings of one idle client would keep a pod awake for
ever. Asleep it wakes, for who asks and gets no answer hangs up; but not for long.
"""

from __future__ import annotations

LONGEST = 2 + 4 + 125

_MQTT = (b"\xc0\0", b"\xd0\0")  # PINGREQ, PINGRESP
_AMQP = b"\x08\0\0\0\0\0\0\xce"  # a heartbeat
_HTTP2 = b"\0\0\x08\x06"  # length 8, type PING
_HTTP2_SIZE = 17


def is_ping(payload: bytes) -> bool:
    """Tell whether the payload of a segment is one ping, or the answer to one, and nothing else."""
    if payload in _MQTT or payload == _AMQP:
        return True
    if len(payload) == _HTTP2_SIZE and payload.startswith(_HTTP2):
        return payload[4] < 2 and not any(payload[5:9])
    if len(payload) < 2 or payload[0] not in (0x89, 0x8A):  # WebSocket: FIN, ping or pong
        return False
    masked, size = payload[1] >> 7, payload[1] & 0x7F
    return size <= 125 and len(payload) == 2 + 4 * masked + size
