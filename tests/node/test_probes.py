"""The kubelet's probes: awake they are no activity, asleep they are answered; whoever else pretends to be one is not."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from node import sleepers
from node.kubelets import AGENT, Kubelet, Probing
from node.sleepers import Sleeper
from node.webs import HTTP, WEB, address, fetch, sleeps_on, web

from checkpointer.kubelet import find
from dev import cri
from ttrpc.errors import TtrpcError

Pods = Callable[..., cri.Pod]

# --- awake -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["ipv4", "ipv6"])
def test_probes_do_not_keep_awake(pods: Pods, kubelet: Kubelet, family: str) -> None:
    """The application answers them, and sleeps when nobody else asks, though they come five times a second."""
    one = web(pods)
    ip = address(one, family)
    assert kubelet.http(ip, WEB) == "HTTP/1.1 200 OK"
    assert one.ask("memory['seen']") == [["/", AGENT]]
    with Probing(kubelet, 0.2, "http", ip, WEB):
        one.reach("ASLEEP")
    one.unharmed()


@pytest.mark.annotation("disable-probe-detection")
def test_probes_count_where_their_detection_is_disabled(pods: Pods, kubelet: Kubelet) -> None:
    """They keep it awake as everybody's requests do."""
    one = web(pods, disable_probe_detection="true")
    with Probing(kubelet, 0.2, "http", one.ip, WEB):
        time.sleep(5)
        assert one.info()["sleeps"] == 0
    one.reach("ASLEEP")


def test_somebody_else_who_looks_like_a_probe_keeps_awake(pods: Pods, kubelet: Kubelet) -> None:
    """A client on the same node, with the kubelet's address and its User-Agent."""
    del kubelet
    one = web(pods)
    for _ in range(25):
        assert fetch(one.ip, agent=AGENT) == "page"
        time.sleep(0.2)
    assert one.info()["sleeps"] == 0
    one.reach("ASLEEP")


# --- asleep ----------------------------------------------------------------------------------------------------------


def test_the_kubelet_is_found_by_its_name(kubelet: Kubelet) -> None:
    """In its cgroup, among all processes of the node."""
    assert kubelet.cgroup in find("auto")


@pytest.mark.parametrize("family", ["ipv4", "ipv6"])
def test_probes_are_answered_asleep(pods: Pods, kubelet: Kubelet, family: str) -> None:
    """Every httpGet and every tcpSocket, from before it falls asleep until it is awake again, and none wakes it."""
    one = web(pods)
    ip = address(one, family)
    with Probing(kubelet, 0.1, "http", ip, WEB, "/healthz") as probing:
        one.reach("ASLEEP")
        probing.more(20)
        assert kubelet.tcp(ip, WEB) == "open"
        sleeps_on(one)
        assert one.ask("memory['seen'][-1]") == ["/healthz", AGENT]
        probing.more(5)
    assert set(probing.answers) == {"HTTP/1.1 200 OK"}
    one.unharmed()


def test_a_probe_in_pieces_is_answered(pods: Pods, kubelet: Kubelet) -> None:
    """A request with a path of a thousand characters, in one segment and in many."""
    one = web(pods)
    one.sleep()
    path = "/" + 1025 * "x"
    assert kubelet.http(one.ip, WEB, path) == "HTTP/1.1 200 OK"
    assert kubelet.http(one.ip, WEB, path, pieces=12) == "HTTP/1.1 200 OK"
    assert kubelet.http(one.ip, WEB, pieces=80) == "HTTP/1.1 200 OK"
    sleeps_on(one)


def test_somebody_else_who_looks_like_a_probe_wakes(pods: Pods, kubelet: Kubelet) -> None:
    """And gets the application's own answer, on both of the pod's addresses."""
    one = web(pods)
    one.sleep()
    assert kubelet.http(one.ip, WEB) == "HTTP/1.1 200 OK"
    sleeps_on(one)
    assert fetch(one.ip, "/page", AGENT) == "page"
    assert one.reach("RUNNING")["wake_cause"] == "tcp-connect"
    one.sleep()
    assert fetch(f"[{one.container.pod.ip6}]", "/page", AGENT) == "page"
    assert one.reach("RUNNING")["wakes"] == 2
    one.unharmed()


@pytest.mark.parametrize("family", ["ipv4", "ipv6"])
def test_a_hook_wakes_and_is_passed_on(pods: Pods, kubelet: Kubelet, family: str) -> None:
    """A lifecycle httpGet gets what the application answers to it."""
    one = web(pods)
    one.sleep()
    ip = address(one, family)
    assert (
        kubelet.http(ip, WEB, "/empty", agent="kube-lifecycle/1.35") == "HTTP/1.1 204 No Content"
    )
    assert one.reach("RUNNING")["wake_cause"] == "tcp-connect"
    assert one.ask("memory['seen']") == [["/empty", "kube-lifecycle/1.35"]]


#: Answers when its client has said all that it has to say.
LATE = """
def late():
    listener = socket.create_server(("::", 9000), family=socket.AF_INET6, dualstack_ipv6=True)
    while True:
        end, _ = listener.accept()
        said = b""
        while piece := end.recv(100):
            said += piece
        time.sleep(3)
        end.sendall(b"you said " + said)
        end.close()
threading.Thread(target=late, daemon=True).start()
"""


def test_what_is_passed_on_is_half_closed(pods: Pods, kubelet: Kubelet) -> None:
    """The application sees the end of the request, and takes its time for the answer."""
    one = sleepers.python(pods, LATE)
    one.sleep()
    assert kubelet.raw(one.ip, 9000, "drain") == "you said drain"
    assert one.reach("RUNNING")["wakes"] == 1


@pytest.mark.annotation("disable-probe-detection")
def test_probes_wake_where_their_detection_is_disabled(pods: Pods, kubelet: Kubelet) -> None:
    """They get the application's own answer."""
    one = web(pods, "1h", disable_probe_detection="true")
    one.sleep()
    assert kubelet.http(one.ip, WEB, "/empty") == "HTTP/1.1 204 No Content"
    assert one.reach("RUNNING")["wakes"] == 1


def test_probes_do_not_disturb_a_sleep(pods: Pods, kubelet: Kubelet) -> None:
    """Ten cycles under probes without a pause: each sleeps, wakes, and none of them fails."""
    one = web(pods, "1h")
    with Probing(kubelet, 0.002, "http", one.ip, WEB) as probing:
        for cycle in range(10):
            asleep = False
            while not asleep:
                asleep = try_sleep(one)
            probing.more(3)
            assert fetch(one.ip) == "page"
            assert one.reach("RUNNING")["wakes"] == cycle + 1
    assert set(probing.answers) == {"HTTP/1.1 200 OK"}
    one.unharmed()


def try_sleep(one: Sleeper) -> bool:
    """Have it put to sleep; False when it was called off, which is no failure."""
    try:
        one.sleep()
    except TtrpcError:
        assert one.info()["failed_sleeps"] == 0, one.info()
        return False
    return True


# --- HTTPS and gRPC --------------------------------------------------------------------------------------------------

#: A certificate is made by the test; only a hook gets here.
HTTPS = """
import ssl
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain("/certificate/both.pem")
secure = Web(("::", 8443), Page)
secure.socket = context.wrap_socket(secure.socket, server_side=True)
threading.Thread(target=secure.serve_forever, args=(0.1,), daemon=True).start()
"""


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """A directory with a key and a certificate."""
    words = ["req", "-x509", "-nodes", "-newkey", "rsa:2048", "-subj", "/CN=web", "-days", "2"]
    files = ["-keyout", str(tmp_path / "key"), "-out", str(tmp_path / "crt")]
    subprocess.run(["openssl", *words, *files], check=True, capture_output=True)
    both = tmp_path / "both.pem"
    both.write_bytes((tmp_path / "key").read_bytes() + (tmp_path / "crt").read_bytes())
    both.chmod(0o644)
    return tmp_path


def test_https_probes_are_answered(pods: Pods, kubelet: Kubelet, certificate: Path) -> None:
    """The kubelet verifies no certificate; a hook over HTTPS gets what the application answers."""
    mount = {"container_path": "/certificate", "host_path": str(certificate), "readonly": True}
    one = sleepers.python(pods, HTTP + HTTPS, mounts=[mount])
    assert kubelet.http(one.ip, 8443, tls=True) == "HTTP/1.1 200 OK"
    one.sleep()
    for ip in (one.ip, one.container.pod.ip6):
        assert kubelet.http(ip, 8443, "/healthz", tls=True) == "HTTP/1.1 200 OK"
        assert kubelet.http(ip, 8443, "/healthz", tls=True, pieces=40) == "HTTP/1.1 200 OK"
    sleeps_on(one)
    hook = kubelet.http(one.ip, 8443, "/empty", agent="kube-lifecycle/1.35", tls=True)
    assert hook == "HTTP/1.1 204 No Content"
    assert one.reach("RUNNING")["wakes"] == 1


def test_grpc_probes_are_answered(pods: Pods, kubelet: Kubelet) -> None:
    """Health.Check over HTTP/2 without TLS: SERVING."""
    one = sleepers.python(pods, LATE)
    one.sleep()
    for ip in (one.ip, one.container.pod.ip6):
        assert kubelet.grpc(ip, 9000) == ["00000000020801", "end"]
    sleeps_on(one)


# --- other ways to rest ----------------------------------------------------------------------------------------------


@pytest.mark.annotation("disable-checkpointing")
def test_probes_are_answered_for_what_was_ended(pods: Pods, kubelet: Kubelet) -> None:
    """And for what is being started afresh, until it listens."""
    one = web(pods, disable_checkpointing="true")
    with Probing(kubelet, 0.1, "http", one.ip, WEB) as probing:
        one.reach("ASLEEP")
        probing.more(10)
        sleeps_on(one)
        assert fetch(one.ip) == "page"
        one.reach("RUNNING")
        probing.more(5)
    assert set(probing.answers) == {"HTTP/1.1 200 OK"}


@pytest.mark.annotation("dry-run")
def test_probes_wake_nobody_from_a_dry_run(pods: Pods, kubelet: Kubelet) -> None:
    """The application answers them, and would sleep on."""
    one = web(pods, dry_run="true")
    with Probing(kubelet, 0.2, "http", one.ip, WEB) as probing:
        cri.until(lambda: one.info()["would_sleep"], 30)
        probing.more(15)
        now = one.info()
        assert (now["would_sleep"], now["would_wakes"]) == (True, {}), now
    assert one.ask("len(memory['seen'])") >= 15
