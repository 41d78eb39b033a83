"""sock_diag's answers, and what is made of them."""

from __future__ import annotations

import errno
import os
import socket
import struct

import pytest

from redirector import sockets
from redirector.endpoints import Connection, Others, Port
from redirector.sockets import Endpoint, State

DONE = struct.pack("=IHHIIi", 20, 3, 2, 1, 0, 0)


def message(local, remote, state, inode, queue=0, unsent=0, attributes=b""):
    """One socket as the kernel reports it (linux/inet_diag.h); addresses as (ip, port)."""
    family = socket.AF_INET6 if ":" in local[0] else socket.AF_INET
    ends = [socket.inet_pton(family, ip).ljust(16, b"\0") for ip, _ in (local, remote)]
    ports = [struct.pack(">H", port) for _, port in (local, remote)]
    ident = b"".join(ports) + b"".join(ends) + bytes(12)
    body = struct.pack("=BBBB", family, state, 0, 0) + ident
    body += struct.pack("=IIIII", 0, queue, unsent, 0, inode) + attributes
    return struct.pack("=IHHII", 16 + len(body), 20, 2, 1, 0) + body


ANY4, ANY6 = ("0.0.0.0", 0), ("::", 0)
POD, NODE = "10.0.0.2", "10.0.0.1"
TCP = [
    message(("0.0.0.0", 6379), ANY4, State.LISTEN, 41001, 3),
    message((POD, 6379), (NODE, 50000), State.ESTABLISHED, 41002),
    message((POD, 6379), (NODE, 50001), State.SYN_RECV, 0),
    message((POD, 6379), (NODE, 50002), State.ESTABLISHED, 0, 5),
    message((POD, 6379), (NODE, 50003), State.TIME_WAIT, 0),
    message(("127.0.0.1", 8080), ANY4, State.LISTEN, 42001),
    message((POD, 54321), ("10.0.0.5", 5432), State.ESTABLISHED, 42002),
]
TCP6 = [
    message(("::", 80), ANY6, State.LISTEN, 43001),
    message(("::ffff:10.0.0.2", 80), ("::ffff:10.0.0.1", 50004), State.ESTABLISHED, 43002),
    message(("fd00::1", 80), ("2001:db8::2", 50005), State.CLOSE_WAIT, 43003),
]
UDP = [
    message(("0.0.0.0", 53), ANY4, State.CLOSE, 44001),
    message((POD, 49152), ("10.0.0.5", 53), State.ESTABLISHED, 44002),
]
TABLE = [
    *sockets.parse(b"".join(TCP), "tcp"),
    *sockets.parse(b"".join(TCP6), "tcp"),
    *sockets.parse(b"".join(UDP), "udp"),
]
REDIS = {41001, 41002}
PEER = Connection("10.0.0.2", 6379, "10.0.0.1", 50000)


def test_addresses_are_read_in_the_kernels_byte_order():
    """IPv4, IPv6 and IPv4-mapped addresses come out as people write them."""
    assert TABLE[1].local == Endpoint("10.0.0.2", 6379)
    assert TABLE[8].remote == Endpoint("10.0.0.1", 50004)
    assert TABLE[9].local == Endpoint("fd00::1", 80)
    assert TABLE[9].remote.ip == "2001:db8::2"


def test_states_and_queues_are_read():
    """State, owner and what waits to be read."""
    assert (TABLE[0].state, TABLE[0].inode, TABLE[0].rx_queue) == (State.LISTEN, 41001, 3)
    assert (TABLE[4].state, TABLE[4].inode) == (State.TIME_WAIT, 0)


def test_only_what_serves_is_a_port():
    """Listeners and unconnected UDP sockets of the owner; no connection, no client socket."""
    assert sockets.listening(TABLE, REDIS) == {Port("tcp", 6379)}
    assert sockets.listening(TABLE, {43001, 44001, 44002}) == {Port("tcp", 80), Port("udp", 53)}
    assert sockets.listening(TABLE, set()) == set()


def test_pending_counts_half_open_and_unaccepted():
    """One SYN_RECV and three in the accept queue of the port, none elsewhere."""
    assert sockets.pending(TABLE, {Port("tcp", 6379)}) == 4
    assert sockets.pending(TABLE, {Port("tcp", 80), Port("udp", 6379)}) == 0


def test_connections_are_the_owners_open_ones():
    """Both ends of every connection with an owner, whatever its state; mapped ones as IPv4."""
    assert sockets.connections(TABLE, REDIS) == {PEER}
    assert sockets.connections(TABLE, {43001, 43002, 43003}) == {
        Connection("10.0.0.2", 80, "10.0.0.1", 50004),
        Connection("fd00::1", 80, "2001:db8::2", 50005),
    }


def test_lingering_are_ports_of_connections_that_ended():
    """In TIME_WAIT and orphaned before it; not what is opened right now, nor what somebody owns."""
    table = [
        message((POD, 80), (NODE, 50000), State.SYN_RECV, 0),
        message((POD, 81), (NODE, 50001), State.TIME_WAIT, 0),
        message((POD, 82), (NODE, 50002), State.FIN_WAIT2, 0),
        message((POD, 83), (NODE, 50003), State.CLOSE_WAIT, 9),
    ]
    assert sockets.lingering(sockets.parse(b"".join(table), "tcp")) == {81, 82}


def test_unread_is_what_the_owners_datagram_sockets_hold():
    """Bytes of datagrams only: criu saves what TCP has received."""
    datagrams = [
        message((POD, 53), ANY4, State.CLOSE, 1, queue=700),
        message((POD, 54), ANY4, State.CLOSE, 2, queue=5),
    ]
    segments = message((POD, 80), (NODE, 50000), State.ESTABLISHED, 1, queue=300)
    table = [*sockets.parse(b"".join(datagrams), "udp"), *sockets.parse(segments, "tcp")]
    assert sockets.unread(table, {1}) == 700


def test_a_connections_last_payload_is_read():
    """Seconds since payload came and went, None for never, among other attributes of the message."""
    info = bytearray(200)
    struct.pack_into("=I4xI", info, 44, 1500, 250)
    struct.pack_into("=II", info, 152, 3, 0)
    attributes = struct.pack("=HHxxxx", 5, 8) + struct.pack("=HH", 204, 2) + info
    ends = (POD, 80), (NODE, 50000)
    (found,) = sockets.parse(message(*ends, State.ESTABLISHED, 1, attributes=attributes), "tcp")
    assert found.talk == sockets.Talk(last_in=0.25, last_out=None)
    assert TABLE[1].talk is None


def test_the_kernel_tells_when_a_connection_spoke():
    """One end has received and not sent, the other the reverse."""
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()) as client,
    ):
        client.sendall(b"question")
        accepted, _ = server.accept()
        with accepted:
            talks = {found.inode: found.talk for found in sockets.here(talks=True)}
            asked, asking = (talks[os.fstat(end.fileno()).st_ino] for end in (accepted, client))
    assert asked.last_out is None
    assert asked.last_in < 10
    assert asking.last_in is None
    assert asking.last_out < 10


def test_others_is_everybody_else_but_nobodys():
    """Siblings' ports and connections; what has no owner may be the frozen container's."""
    assert sockets.others(TABLE, REDIS | {43001, 43002, 43003, 44001}) == Others(
        frozenset([Port("tcp", 8080), Port("udp", 49152)]),
        frozenset([Connection("10.0.0.2", 54321, "10.0.0.5", 5432)]),
    )


def test_a_shared_port_is_not_others():
    """A port that the frozen container serves too is held, whoever shares it."""
    assert Port("tcp", 8080) not in sockets.others(TABLE, {42001}).ports
    shared = [*TABLE, TABLE[0]._replace(inode=49999)]
    assert Port("tcp", 6379) not in sockets.others(shared, REDIS).ports


def test_an_answer_ends_with_done():
    """What comes after it is not read; an answer that ends is told from one that goes on."""
    assert list(sockets.parse(UDP[0] + DONE + UDP[1], "udp"))[1:] == [None]
    assert None not in TABLE


def test_a_refused_dump_is_an_error_with_the_kernels_number():
    """A kernel without tcp_diag answers ENOENT."""
    refusal = struct.pack("=IHHIIi16x", 36, 2, 0, 1, 0, -errno.ENOENT)

    with pytest.raises(FileNotFoundError, match="sock_diag"):
        list(sockets.parse(refusal, "tcp"))


def test_the_kernels_table_has_our_own_listener():
    """A port opened now is found now, by either family."""
    for family, address in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
        with socket.create_server((address, 0), family=family) as server:
            inode = os.fstat(server.fileno()).st_ino
            port = Port("tcp", server.getsockname()[1])
            assert sockets.listening(sockets.here(), {inode}) == {port}


def test_what_is_to_be_reset_is_named_as_the_kernel_names_it():
    """With its cookie: by its addresses alone the kernel would find the listener of a connection that has gone."""
    cookie = struct.pack("=II", 7, 8)
    one = message((POD, 6379), (NODE, 50000), State.ESTABLISHED, 41002)
    one = one[:60] + cookie + one[68:]

    [(found, which), end] = sockets._named(one + DONE)

    assert (found, end) == (PEER, None)
    assert which == one[20:60] + cookie
