"""Traffic of a container, from clocks by port and clocks by connection."""

import time
import types

import pytest

from checkpointer.idle import Busy, Facts, Idle, decide
from checkpointer.policy import Policy
from checkpointer.traffic import MAX_PORTS, Traffic, crowded, listening
from redirector.endpoints import Activity, Port
from redirector.ignored import Ignored
from redirector.sockets import Endpoint, Socket, State, Talk

WEB = Port("tcp", 80)
LISTENER = Socket("tcp", State.LISTEN, Endpoint("::", 80), Endpoint("::", 0), 1, 0, 128)


def connection(number, talk=None, *, port=80, state=State.ESTABLISHED, unsent=0):
    ends = Endpoint("10.0.0.2", port), Endpoint("10.0.0.1", 50000 + number)
    return Socket("tcp", state, *ends, number, 0, unsent, talk)


def container(
    *,
    policy=None,
    alone=True,
    callers=(),
    calls=(),
    talks=None,
    quiet=0.0,
    woke=0.0,
    **activity,
):
    """What `traffic` needs of one: its ports, and the datapath's clocks by port (seconds ago).

    `calls` are numbers of the kubelet's connections. `talks` are its clocks by number of the connection, if there were pings; `quiet` and `woke` are seconds ago.
    """
    now = time.monotonic_ns()
    policy = Policy(**policy or {})
    clocks = {
        Port("udp" if name[0] == "u" else "tcp", int(name[1:])): Activity(
            *(now - int(1e9 * ago) for ago in times)
        )
        for name, times in activity.items()
    }
    ports = frozenset([WEB])
    pod = types.SimpleNamespace(
        activity=lambda asked, kept: {port: clocks.get(port, Activity(0, 0)) for port in asked},
        callers=lambda doubtful: doubtful & frozenset(callers),
        ignored=Ignored.of(policy.ignore_from),
        calls=lambda asked: frozenset(one for one in asked if one.remote_port - 50000 in calls),
        talks=lambda asked: {
            one: Activity(*(now - int(1e9 * ago) for ago in talks[one.remote_port - 50000]))
            for one in asked
            if one.remote_port - 50000 in (talks or {})
        },
    )
    heeded = frozenset(filter(policy.heeds, ports))
    record = types.SimpleNamespace(policy=policy)
    slept, awake = (now / 1e9 - ago if ago else 0.0 for ago in (quiet, woke))
    return types.SimpleNamespace(
        ports=ports,
        heeded=heeded,
        pod=pod,
        record=record,
        quiet=slept,
        woke=awake,
        alone=lambda: alone,
    )


def look(owner, *table):
    return Traffic(owner, [LISTENER, *table], range(100))


def judge(owner, *table):
    """What becomes of it five seconds after the last traffic."""
    seen = look(owner, *table)
    facts = Facts(since=0.0, seen=seen.seen(), ignored=seen.ignored(), kubelet=seen.kubelet())
    return decide(time.monotonic(), facts, Policy(scaledown=5.0))


def test_a_client_that_still_waits_is_found_behind_one_that_was_answered():
    """The port's last word was an answer, to somebody else."""
    answered = connection(2, Talk(last_in=20.1, last_out=20.0))
    waiting = connection(3, Talk(last_in=30.0, last_out=None))

    assert judge(container(p80=(20.1, 20.0)), answered) == Idle()
    assert isinstance(judge(container(p80=(20.1, 20.0)), answered, waiting), Busy)


def test_a_connection_that_never_spoke_asks_nothing():
    """Open and silent, or restored: no request."""
    assert judge(container(p80=(20.1, 20.0)), connection(2, Talk(None, None))) == Idle()


def test_pings_are_no_traffic_on_their_connection():
    """The kernel's clocks of a connection count them, the datapath's do not; it knows who still waits, too."""
    pinged = connection(2, Talk(last_in=0.1, last_out=0.1))

    assert judge(container(p80=(20.1, 20.0), talks={2: (20.1, 20.0)}), pinged) == Idle()
    assert isinstance(judge(container(p80=(20.1, 20.0)), pinged), Busy)
    assert isinstance(judge(container(p80=(20.1, 20.0), talks={2: (30.0, 40.0)}), pinged), Busy)


def test_what_was_asked_before_a_sleep_is_asked_no_more():
    """A connection's clocks begin anew with a wake, but what woke it counts, which came right before."""
    pinged = connection(2, Talk(last_in=0.1, last_out=0.1))
    slept = {"quiet": 60.0, "woke": 29.9}

    assert judge(container(p80=(20.1, 20.0), talks={2: (90.0, 99.0)}, **slept), pinged) == Idle()
    assert isinstance(
        judge(container(p80=(20.1, 20.0), talks={2: (30.0, 99.0)}, **slept), pinged), Busy
    )


def test_the_port_tells_what_falls_into_one_tick_of_the_connections_clock():
    """The next question right after an answer looks simultaneous on the connection; inbound and outbound."""
    pair = connection(2, Talk(last_in=20.0, last_out=20.0))
    own = connection(2, Talk(last_in=20.0, last_out=20.0), port=40000)

    assert isinstance(judge(container(p80=(20.0, 20.001)), pair), Busy)
    assert isinstance(judge(container(p40000=(20.001, 20.0)), own), Busy)


def test_outbound_traffic_counts():
    """Payload on a connection that it opened itself, to a port it does not serve; a datagram from a port of its own."""
    own = connection(2, port=40000)
    ends = Endpoint("10.0.0.2", 40001), Endpoint("10.0.0.1", 53)
    asking = Socket("udp", State.ESTABLISHED, *ends, 3, 0)

    assert isinstance(judge(container(p40000=(1.0, 2.0)), own), Busy)
    assert isinstance(judge(container(u40001=(2.0, 1.0)), asking), Busy)
    assert judge(container(u40001=(30.0, 20.0)), asking) == Idle()


def test_outbound_traffic_of_connections_that_are_gone_counts():
    """A request every few seconds, each on a connection of its own; not where it may have been a sidecar's."""
    assert isinstance(judge(container(p0=(0.0, 1.0))), Busy)
    assert judge(container(p0=(0.0, 1.0), alone=False)) == Idle()


def test_what_keeps_it_awake_is_named():
    """The port, the other end of its own connection, or that it is gone."""
    own = connection(2, port=40000)

    assert judge(container(p80=(2.0, 1.0))).because == "last traffic 1 s ago (tcp/80)"
    assert judge(container(p40000=(1.0, 2.0)), own).because.endswith("(tcp with 10.0.0.1:50002)")
    assert judge(container(u0=(0.0, 1.0))).because.endswith("(udp to somebody else)")


def test_a_datagram_clients_port_is_not_served():
    """Nobody would know what to send there; unless the owner says that somebody does."""
    ends = Endpoint("0.0.0.0", 41000), Endpoint("0.0.0.0", 0)
    table = [LISTENER, Socket("udp", State.CLOSE, *ends, 2, 0)]
    dns, named = Port("udp", 41000), {"ports": ("udp/41000",)}

    assert listening(container(), table, {1, 2}) == ({WEB, dns}, set())
    assert listening(container(callers=[dns]), table, {1, 2}) == ({WEB}, {dns})
    assert listening(container(callers=[dns], policy=named), table, {1, 2}) == ({WEB, dns}, set())


def test_its_own_question_waits_for_its_answer():
    """Whatever its port's clock was made to forget, its connection's tells."""
    asking = connection(2, Talk(last_in=50.0, last_out=20.0), port=40000)
    answered = connection(2, Talk(last_in=20.0, last_out=50.0), port=40000)

    assert isinstance(judge(container(), asking), Busy)
    assert judge(container(), answered) == Idle()


@pytest.mark.parametrize("policy", [{"ignore_from": ["10.0.0.0/24"]}, {"ignore_ports": [80]}])
def test_what_the_policy_ignores_is_set_apart(policy):
    """By the peer's address or by the port: no activity, no open request; it is only let finish."""
    asking = Talk(last_in=0.5, last_out=1.0), Talk(last_in=30.0, last_out=40.0)
    recent, old = connection(2, asking[0], unsent=7), connection(3, asking[1])
    owner = container(policy=policy, p80=(9.0, 9.0))

    assert judge(owner, old) == Idle()
    assert isinstance(judge(owner, recent), Busy)
    seen = look(owner, recent)
    assert (seen.unsent(ignored=False), seen.unsent(ignored=True)) == (0, 7)
    assert seen.inbound() == 0


def test_clients_are_counted():
    """Open connections to its ports: none that it opened, none that has ended."""
    table = [
        connection(2),
        connection(3),
        connection(4, state=State.CLOSE_WAIT),
        connection(5, port=40000),
        connection(200),
    ]
    assert look(container(), *table).inbound() == 2


def test_clients_that_wait_for_nothing_are_told_from_those_that_do():
    """Silent from the beginning, answered, given up; not one that asked, none that the application called."""
    table = [
        connection(2, Talk(None, None)),
        connection(3, Talk(last_in=9.0, last_out=8.0)),
        connection(4, Talk(last_in=99.0, last_out=None)),
        connection(5, Talk(last_in=8.0, last_out=9.0)),
        connection(6, Talk(last_in=9.0, last_out=8.0), port=40000),
        connection(7, state=State.FIN_WAIT2),
    ]
    assert look(container(policy={"max_request": 60.0}), *table).silent() == {2, 3, 4}


def test_unsent_is_what_its_peers_have_not_acknowledged():
    """Bytes of its connections; for a listener the same field is the length its queue may have."""
    table = [connection(2, unsent=1000), connection(3, port=40000, unsent=24)]
    assert look(container(), *table, connection(200, unsent=9)).unsent(ignored=False) == 1024


def test_connections_that_it_opens_are_counted():
    """Not those that others open."""
    table = [connection(2, port=40000, state=State.SYN_SENT), connection(3, state=State.SYN_RECV)]
    assert look(container(), *table).opening() == 1


def test_payload_that_came_after_a_moment_is_found():
    """An answer that is sent again is nothing that came."""
    seen = look(container(p80=(3.0, 2.0)))

    assert seen.came_after(time.monotonic() - 3.5) == WEB
    assert seen.came_after(time.monotonic() - 2.5) is None


def test_a_probe_is_no_traffic_and_is_answered_first():
    """A second ago the kubelet was answered; then it waits, for a probe or for as long as a hook may take."""
    answered = connection(2, Talk(last_in=1.1, last_out=1.0))
    waiting = connection(2, Talk(last_in=1.1, last_out=None))
    drained = connection(2, Talk(last_in=300.0, last_out=None))
    given_up = connection(2, Talk(last_in=1.1, last_out=None), state=State.CLOSE_WAIT)

    assert judge(container(p80=(20.1, 20.0), calls=[2]), answered) == Idle()
    assert judge(container(p80=(20.1, 20.0), calls=[2]), given_up) == Idle()
    for one in (waiting, drained):
        decision = judge(container(p80=(20.1, 20.0), calls=[2]), one)
        assert isinstance(decision, Busy)
        assert "kubelet" in decision.because


def test_the_kubelets_connection_is_no_clients():
    """Its owner wants it to sleep when no client is connected."""
    probe, client = connection(2, Talk(1.0, 1.0)), connection(3, Talk(1.0, 1.0))

    assert look(container(calls=[2]), probe).inbound() == 0
    assert look(container(calls=[2]), probe, client).inbound() == 1
    assert look(container(calls=[2]), probe).silent() == {2}


@pytest.mark.parametrize(
    ("own", "others", "said"),
    [
        (MAX_PORTS, MAX_PORTS, ""),
        (MAX_PORTS + 1, 0, "it listens on 1025 ports"),
        (1, MAX_PORTS + 1, "the rest of its pod listens on 1025"),
    ],
)
def test_a_pod_does_not_fill_the_tables_of_the_node(own, others, said):
    """More ports than can be held for one pod are a reason not to sleep, whoever listens on them."""
    why = crowded(
        [Port("tcp", 1 + n) for n in range(own)], [Port("udp", 1 + n) for n in range(others)]
    )

    assert bool(why) is bool(said)
    assert said in why
