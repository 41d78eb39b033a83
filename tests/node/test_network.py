"""What a pod's network has that criu or the datapath cannot cope with: switched off in time, or refused with a reason."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator

import pytest
from node import sleepers
from node.datapath_lab import Namespace
from node.plugins import Plugin
from node.sleepers import Sleeper

from dev import cri
from redirector import nat
from ttrpc.errors import TtrpcError

Pods = Callable[..., cri.Pod]

REDIRECT = "PREROUTING -p tcp --dport 80 -j REDIRECT --to-port 15006"

MULTIPATH = """
def multipath(port):
    try:
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM, 262)
    except OSError:
        sock = socket.socket()  # as Go does
    sock.bind(("0.0.0.0", port))
    sock.listen()
    return sock
mine = multipath(99)
"""


def inside(pid: int, *words: str) -> str:
    """Run a program of the node in a pod's network namespace."""
    args = ["nsenter", "-t", str(pid), "-n", *words]
    return subprocess.run(args, check=True, capture_output=True, text=True).stdout.strip()


def enabled(pid: int) -> str:
    """net.mptcp.enabled where a process is."""
    return inside(pid, "sysctl", "-n", "net.mptcp.enabled")


def test_a_program_that_would_listen_with_mptcp_sleeps(pods: Pods) -> None:
    """MPTCP is off before it starts; it falls back to TCP, and sleeps and wakes as any other."""
    one = sleepers.python(pods, MULTIPATH)
    assert enabled(one.pid) == "0"
    assert one.ask("mine.proto") == 0
    one.sleep()
    assert one.ask("mine.proto") == 0


def test_mptcp_is_off_for_who_is_managed_only(pods: Pods) -> None:
    """A pod that wants nothing of us keeps it, and so does a pod in which nothing of ours runs any more."""
    plain = pods().run("localhost/busybox:1", ["sleep", "1000"])
    assert enabled(plain.pid) == "1"
    pod = pods(
        annotations={sleepers.SCALEDOWN: "1h", "zeropod.ctrox.dev/container-names": "managed"}
    )
    managed = pod.run("localhost/python:1", ["sleep", "1000"], name="managed")
    other = pod.run("localhost/busybox:1", ["sleep", "1000"], name="other")
    assert enabled(other.pid) == "0"
    managed.stop(0)
    cri.until(lambda: enabled(other.pid) == "1", 30)


@pytest.mark.parametrize("away", [False, True], ids=["before", "meanwhile"])
def test_mptcp_is_given_back_by_another_plugin(pods: Pods, plugin: Plugin, away: bool) -> None:
    """The plugin was started anew before the last managed container stopped, or while it did."""
    annotations = {
        sleepers.SCALEDOWN: "1h",
        "zeropod.ctrox.dev/container-names": "managed",
    }
    pod = pods(annotations=annotations)
    managed = pod.run("localhost/python:1", ["sleep", "1000"], name="managed")
    other = pod.run("localhost/busybox:1", ["sleep", "1000"], name="other")
    assert enabled(other.pid) == "0"
    plugin.away()
    if away:
        managed.stop(0)
    plugin.back()
    if not away:
        assert enabled(other.pid) == "0"
        managed.stop(0)
    cri.until(lambda: enabled(other.pid) == "1", 30)


def test_an_mptcp_socket_that_is_there_is_refused(pods: Pods) -> None:
    """With the remedy, and the application runs on; it sleeps when the socket is closed."""
    one = sleepers.python(pods, MULTIPATH)
    inside(one.pid, "sysctl", "-qw", "net.mptcp.enabled=1")
    assert one.ask("memory.update(it=multipath(98)) or memory['it'].proto") == 262
    refused(one, "MPTCP")
    one.ask("memory['it'].close()")
    assert one.sleep()["state"] == "ASLEEP"


def test_a_socket_to_the_hypervisor_is_refused(pods: Pods) -> None:
    """With the reason, and the application runs on."""
    one = sleepers.python(pods, security={"unconfined": True})
    said = one.ask("memory.update(it=socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM))")
    if said is not None:
        pytest.skip("this kernel has no vsock")
    refused(one, "vsock")
    one.ask("memory['it'].close()")
    assert one.sleep()["state"] == "ASLEEP"


def test_a_service_mesh_is_refused(pods: Pods) -> None:
    """As long as a rule in the pod takes its ports away, as Istio's init container has it do."""
    one = sleepers.python(pods)
    inside(one.pid, "iptables", "-t", "nat", "-A", *REDIRECT.split())
    refused(one, "REDIRECT in chain PREROUTING of table nat.*sidecar")
    inside(one.pid, "iptables", "-t", "nat", "-D", *REDIRECT.split())
    assert one.sleep()["state"] == "ASLEEP"


def refused(one: Sleeper, said: str) -> None:
    """See that it is not put to sleep and why, and that it does not mind."""
    with pytest.raises(TtrpcError, match=said):
        one.sleep()
    assert one.ask("1") == 1
    one.unharmed()


# --- rules -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def space() -> Iterator[Namespace]:
    """A network namespace."""
    made = Namespace()
    yield made
    made.close()


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (f"iptables-nft -t nat -A {REDIRECT}", "REDIRECT in chain PREROUTING of table nat"),
        (f"iptables-legacy -t nat -A {REDIRECT}", "1 rules in iptables-legacy's table nat"),
        (f"ip6tables-legacy -t nat -A {REDIRECT}", "1 rules in iptables-legacy's table nat"),
        (
            "ip6tables-nft -t mangle -A PREROUTING -p tcp -j TPROXY --on-port 99",
            "TPROXY in chain PREROUTING of table mangle",
        ),
        (
            "nft add table inet t; nft add chain inet t c '{ type nat hook output priority 0; }';"
            "nft add rule inet t c tcp dport 80 redirect to :99",
            "redir in chain c of table t",
        ),
        (
            "nft add table ip t; nft add chain ip t c '{ type filter hook prerouting priority 0; }';"
            "nft add rule ip t c ip daddr 10.0.0.1 counter; nft add rule ip t c meta l4proto tcp tproxy to :99",
            "tproxy in chain c of table t",
        ),
    ],
)
def test_a_rule_that_rewrites_is_found(space: Namespace, command: str, said: str) -> None:
    """Whoever made it, and by whichever tool."""
    try:
        space.shell(command)
    except subprocess.CalledProcessError as error:
        if "Table does not exist" not in error.stderr:
            raise
        pytest.skip("this kernel has no tables of iptables-legacy")
    assert nat.rule(space.pid) == said


@pytest.mark.parametrize(
    "command",
    [
        "true",
        "iptables-nft -t nat -L",
        "iptables-legacy -t nat -L; ip6tables-legacy -t nat -L",
        "iptables-nft -A INPUT -p tcp --dport 81 -j DROP; iptables-legacy -A INPUT -j ACCEPT",
        "nft add table ip nat; nft add chain ip nat c '{ type nat hook output priority 0; }';"
        "nft add rule ip nat c counter",
    ],
)
def test_a_filter_that_rewrites_nothing_is_none(space: Namespace, command: str) -> None:
    """Tables that were only looked at, firewalls, and what is called "nat"."""
    space.shell(command)
    assert nat.rule(space.pid) == ""
