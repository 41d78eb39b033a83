"""What the owner of a pod wants for a container, as the daemon uses it."""

import json

import pytest

from checkpointer.policy import Policy
from redirector.endpoints import Port

WEB, TLS, DNS = Port("tcp", 80), Port("tcp", 443), Port("udp", 53)


@pytest.mark.parametrize(
    ("policy", "heeded"),
    [
        (Policy(), {WEB, TLS, DNS}),
        (Policy(ports=("tcp/80",)), {WEB}),
        (Policy(ports=("udp/53", "tcp/9")), {DNS}),
        (Policy(ignore_ports=(443,)), {WEB, DNS}),
        (Policy(ports=("tcp/80", "tcp/443"), ignore_ports=(443,)), {WEB}),
    ],
)
def test_named_ports_are_the_only_ones_that_count_and_ignored_ones_never_do(policy, heeded):
    """Without a name every port on which it listens counts."""
    assert {port for port in (WEB, TLS, DNS) if policy.heeds(port)} == heeded


@pytest.mark.parametrize(
    ("policy", "ports", "said"),
    [
        (Policy(), {WEB}, ""),
        (Policy(), (), "no port"),
        (Policy(ports=("tcp/80",)), {TLS, WEB}, ""),
        (Policy(ports=("tcp/80",)), {TLS}, "ports-map names for it: tcp/80"),
        (Policy(ports=("tcp/80",)), (), "no port"),
        (Policy(ignore_ports=(80,)), {WEB}, "ignore-ports"),
        (Policy(portless=True), (), ""),
        (Policy(portless=True, ports=("tcp/80",)), (), ""),
    ],
)
def test_what_no_packet_could_wake_does_not_sleep_unless_that_is_wanted(policy, ports, said):
    """A named port that nobody listens on wakes nobody; the reason names the annotation that matters."""
    assert bool(policy.unreachable(ports)) is bool(said)
    assert said in policy.unreachable(ports)


def test_who_takes_a_server_for_a_client_says_how_to_put_that_right():
    """The port, and the annotation that names ports."""
    why = Policy().unreachable((), [Port("udp", 51820)])
    assert "udp/51820" in why
    assert "ports-map" in why


def test_a_policy_survives_its_record():
    """Written as JSON by one daemon, read by the next one, which may be older or newer."""
    policy = Policy(scaledown=5.0, ports=("tcp/80",), ignore_ports=(9,), notes=("a",))
    stored = json.loads(json.dumps({"ports": policy.ports, "of-the-future": 1, "scaledown": 5.0}))

    assert Policy.read(stored) == Policy(scaledown=5.0, ports=("tcp/80",))
