"""Traffic of a container, from clocks by port and clocks by connection."""

import time
import types

from checkpointer import traffic
from checkpointer.idle import Busy, Idle, decide
from redirector.endpoints import Activity, Port
from redirector.sockets import Endpoint, Socket, State, Talk

WEB = Port("tcp", 80)
LISTENER = Socket("tcp", State.LISTEN, Endpoint("::", 80), Endpoint("::", 0), 1, 0)


def connection(number, talk=None, *, port=80):
    ends = Endpoint("10.0.0.2", port), Endpoint("10.0.0.1", 50000 + number)
    return Socket("tcp", State.ESTABLISHED, *ends, number, 0, 0, talk)


def container(**activity):
    """What `traffic` needs of one: its ports, and the datapath's clocks by port (seconds ago)."""
    now = time.monotonic_ns()
    clocks = {
        Port("tcp", int(name[1:])): Activity(*(now - int(1e9 * ago) for ago in times))
        for name, times in activity.items()
    }
    pod = types.SimpleNamespace(
        activity=lambda ports: {port: clocks.get(port, Activity(0, 0)) for port in ports}
    )
    return types.SimpleNamespace(ports=frozenset([WEB]), heeded=frozenset([WEB]), pod=pod)


def is_idle(owner, *table):
    seen = traffic.seen(owner, [LISTENER, *table], range(100))
    return decide(time.monotonic(), scaledown=5.0, since=0.0, seen=seen, sessions=0)


def test_a_client_that_still_waits_is_found_behind_one_that_was_answered():
    """The port's last word was an answer, to somebody else."""
    answered = connection(2, Talk(last_in=20.1, last_out=20.0))
    waiting = connection(3, Talk(last_in=30.0, last_out=None))

    assert is_idle(container(p80=(20.1, 20.0)), answered) == Idle()
    assert isinstance(is_idle(container(p80=(20.1, 20.0)), answered, waiting), Busy)


def test_a_connection_that_never_spoke_asks_nothing():
    """Open and silent, or restored: no request."""
    assert is_idle(container(p80=(20.1, 20.0)), connection(2, Talk(None, None))) == Idle()


def test_the_port_tells_what_falls_into_one_tick_of_the_connections_clock():
    """The next question right after an answer looks simultaneous on the connection."""
    pair = connection(2, Talk(last_in=20.0, last_out=20.0))

    assert isinstance(is_idle(container(p80=(20.0, 20.001)), pair), Busy)


def test_outbound_traffic_counts():
    """Payload on a connection that it opened itself, to a port it does not serve."""
    own = connection(2, port=40000)

    assert isinstance(is_idle(container(p40000=(1.0, 2.0)), own), Busy)


def test_payload_that_came_after_a_moment_is_found():
    """An answer that is sent again is nothing that came."""
    owner, table = container(p80=(3.0, 2.0)), [LISTENER]

    assert traffic.came_after(owner, table, {1}, time.monotonic() - 3.5) == WEB
    assert traffic.came_after(owner, table, {1}, time.monotonic() - 2.5) is None
