"""/proc's socket tables, in the kernel's own words."""

from __future__ import annotations

import os
import socket

from redirector import sockets
from redirector.endpoints import Connection, Others, Port
from redirector.sockets import Endpoint, State

TCP = """\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 00000000:18EB 00000000:0000 0A 00000000:00000003 00:00000000 00000000   999        0 41001 1 0000000000000000 100 0 0 10 0
   1: 0200000A:18EB 0100000A:C350 01 00000000:00000000 02:000A9B9F 00000000   999        0 41002 2 0000000000000000 20 4 30 10 -1
   2: 0200000A:18EB 0100000A:C351 03 00000000:00000000 01:00000062 00000000     0        0 0 1 0000000000000000
   3: 0200000A:18EB 0100000A:C352 01 00000000:00000005 00:00000000 00000000     0        0 0 1 0000000000000000 20 4 1 10 -1
   4: 0200000A:18EB 0100000A:C353 06 00000000:00000000 03:00000A1C 00000000     0        0 0 3 0000000000000000
   5: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 42001 1 0000000000000000 100 0 0 10 0
   6: 0200000A:D431 0500000A:1538 01 00000000:00000000 00:00000000 00000000  1000        0 42002 1 0000000000000000 20 4 1 10 -1
"""
TCP6 = """\
  sl  local_address                         remote_address                        st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 00000000000000000000000000000000:0050 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 43001 1 0000000000000000 100 0 0 10 0
   1: 0000000000000000FFFF00000200000A:0050 0000000000000000FFFF00000100000A:C354 01 00000000:00000000 00:00000000 00000000     0        0 43002 1 0000000000000000 20 4 30 10 -1
   2: 000000FD000000000000000001000000:0050 B80D0120000000000000000002000000:C355 08 00000000:00000000 00:00000000 00000000     0        0 43003 1 0000000000000000 20 4 30 10 -1
"""
UDP = """\
   sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops
  117: 00000000:0035 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 44001 2 0000000000000000 0
  118: 0200000A:C000 0500000A:0035 01 00000000:00000000 00:00000000 00000000     0        0 44002 2 0000000000000000 0
"""
TABLE = [
    *sockets.parse(TCP, "tcp"),
    *sockets.parse(TCP6, "tcp"),
    *sockets.parse(UDP, "udp"),
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


def test_the_kernels_table_has_our_own_listener():
    """The files of a living process are read as they are: a port opened now is found now."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        inode = os.fstat(server.fileno()).st_ino
        port = Port("tcp", server.getsockname()[1])
        assert sockets.listening(sockets.table(os.getpid()), {inode}) == {port}
