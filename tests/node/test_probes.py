"""The kubelet's probes: awake they are no activity, whatever anybody else pretends to be."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from node import kubelets, sleepers
from node.kubelets import AGENT, Kubelet, Probing
from node.sleepers import SCALEDOWN, Sleeper

from bpf import maps, pins
from checkpointer import settings
from checkpointer.kubelet import find
from dev import cri, patience
from ttrpc.errors import TtrpcError

Pods = Callable[..., cri.Pod]

PREFIX = "zeropod.ctrox.dev/"

WEB = 8080

#: A web server beside the one that is asked expressions.
HTTP = """
import http.server
class Page(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        memory.setdefault("seen", []).append([self.path, self.headers.get("User-Agent")])
        body = b"page"
        self.send_response(204 if self.path == "/empty" else 200)
        self.send_header("Content-Length", str(0 if self.path == "/empty" else len(body)))
        self.end_headers()
        if self.path != "/empty":
            self.wfile.write(body)
    def log_message(self, *_):
        pass
class Web(http.server.ThreadingHTTPServer):
    address_family = socket.AF_INET6
web = Web(("::", 8080), Page)
threading.Thread(target=web.serve_forever, args=(0.1,), daemon=True).start()
"""


@pytest.fixture(scope="module")
def kubelet() -> Iterator[Kubelet]:
    """One that the daemon knows."""
    with kubelets.heard() as one:
        yield one


def web(pods: Pods, scaledown: str = "2s", **wanted: str) -> Sleeper:
    """A container with a web server."""
    named = {PREFIX + name.replace("_", "-"): value for name, value in wanted.items()}
    pod = pods(annotations={SCALEDOWN: scaledown, **named})
    return sleepers.python(pods, HTTP, pod=pod)


def address(one: Sleeper, family: str) -> str:
    """Of its pod."""
    return one.ip if family == "ipv4" else one.container.pod.ip6


def fetch(ip: str, path: str = "/", agent: str = "somebody/1") -> str:
    """What another client of the same node gets."""
    request = urllib.request.Request(f"http://{ip}:{WEB}{path}", headers={"User-Agent": agent})
    with urllib.request.urlopen(request, timeout=20) as answer:
        return str(answer.read().decode())


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


def sleeps_on(one: Sleeper) -> None:
    """It has not been woken."""
    now = one.info()
    assert (now["state"], now["wakes"]) == ("ASLEEP", 0), now


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


# --- without the daemon ----------------------------------------------------------------------------------------------


def test_probes_are_answered_without_a_daemon(pods: Pods, kubelet: Kubelet) -> None:
    """One that is killed, and its successor: no probe fails, and a client's request is answered by the successor."""
    one = web(pods)
    one.reach("ASLEEP")
    with Probing(kubelet, 0.5, "http", one.ip, WEB) as probing:
        with sleepers.without_daemon():
            probing.more(24)
        one.reach("ASLEEP")
        probing.more(5)
        sleeps_on(one)
        assert fetch(one.ip) == "page"
        assert one.reach("RUNNING")["wakes"] == 1
        one.reach("ASLEEP")
        probing.more(5)
    assert set(probing.answers) == {"HTTP/1.1 200 OK"}
    one.unharmed()


def test_probes_are_answered_while_the_daemon_is_upgraded(pods: Pods, kubelet: Kubelet) -> None:
    """Stopped as planned and started again, twice."""
    one = web(pods)
    one.reach("ASLEEP")
    with Probing(kubelet, 0.1, "http", one.ip, WEB) as probing:
        for _ in range(2):
            kubelets.restart()
            probing.more(5)
            one.reach("ASLEEP")
    assert set(probing.answers) == {"HTTP/1.1 200 OK"}
    sleeps_on(one)
    one.unharmed()


def responders() -> set[tuple[int, int]]:
    """Of each hold the port at which the kubelet is answered."""
    opened: list[int] = []
    where = pins.Pins(settings.Settings().pin_root)
    tables = maps.Maps(lambda name: opened.append(where.map(name)) or opened[-1])
    try:
        held = ((number, tables.holds.get(number)) for number in range(1, 64))
        return {(number, entry.responder) for number, entry in held if entry and entry.mode}
    finally:
        for fd in opened:
            os.close(fd)


def test_a_responder_that_dies_is_replaced(pods: Pods, kubelet: Kubelet) -> None:
    """Meanwhile probes wake, and none fails; who slept through is answered for by the new one."""
    one = web(pods, "1h")
    other = web(pods, "1h")
    one.sleep()
    other.sleep()
    assert kubelet.http(one.ip, WEB) == "HTTP/1.1 200 OK"
    former, ports = sleepers.helpers()["responder"], responders()
    os.kill(former, signal.SIGKILL)
    cri.until(lambda: not sleepers.alive(former), 10)
    assert kubelet.http(one.ip, WEB, timeout=20) == "HTTP/1.1 200 OK"
    cri.until(lambda: not responders() & ports, 30)
    before = other.info()["wakes"]
    assert kubelet.http(other.ip, WEB, "/empty") == "HTTP/1.1 200 OK"
    assert other.info()["wakes"] == before


# --- beside it -------------------------------------------------------------------------------------------------------


def test_the_application_is_woken_beside_the_responders_connections(
    pods: Pods, kubelet: Kubelet
) -> None:
    """Open ones, and some in TIME_WAIT, have its port when it opens that again."""
    one = web(pods, "1h")
    one.sleep()
    kubelet.call("park", one.ip, WEB, 20)
    for _ in range(5):
        kubelet.http(one.ip, WEB)
    assert fetch(one.ip) == "page"
    assert one.reach("RUNNING")["failed_wakes"] == 0
    one.sleep()
    kubelet.call("leave")
    assert fetch(one.ip) == "page"
    one.unharmed()


def test_a_probe_from_a_port_in_time_wait_is_answered(pods: Pods, kubelet: Kubelet) -> None:
    """The kubelet may use a port again at once if the application was the first to close."""
    one = web(pods, "1h")
    status, own = kubelet.call("from_port", one.ip, WEB, 0, True, patience.seconds(20))
    assert status == "HTTP/1.1 200 OK"
    lines = Path(f"/proc/{one.pid}/net/tcp6").read_text().splitlines()[1:]
    ends = [line.split()[2:4] for line in lines]
    assert [state for remote, state in ends if remote.endswith(f":{own:04X}")] == ["06"]
    one.sleep()
    again = kubelet.call("from_port", one.ip, WEB, own, False, patience.seconds(20))
    assert again == ["HTTP/1.1 200 OK", own]
    sleeps_on(one)


def test_a_neighbour_is_let_in_and_its_probes_are_its_own(pods: Pods, kubelet: Kubelet) -> None:
    """Of two containers of a pod one sleeps: the other one answers its probes itself."""
    pod = pods(annotations={SCALEDOWN: "1h"})
    asleep = sleepers.python(pods, HTTP, pod=pod)
    awake = sleepers.python(pods, HTTP.replace("8080", "8081"), pod=pod, port=8, name="awake")
    asleep.sleep()
    assert kubelet.http(pod.ip, 8081, "/empty") == "HTTP/1.1 204 No Content"
    assert kubelet.http(pod.ip, WEB, "/empty") == "HTTP/1.1 200 OK"
    sleeps_on(asleep)
    assert awake.info()["state"] == "RUNNING"


def test_a_new_responder_leaves_who_sleeps_his_port(pods: Pods, kubelet: Kubelet) -> None:
    """It is free as long as he does, and he opens it again when he wakes."""
    one = web(pods, "1h")
    before = listening(one)
    one.sleep()
    former = sleepers.helpers()["responder"]
    enter = ["nsenter", "-t", str(one.pid), "-n", "sysctl", "-qw"]
    subprocess.run([*enter, f"net.ipv4.ip_local_port_range={WEB - 1} {WEB + 1}"], check=True)
    os.kill(former, signal.SIGKILL)
    cri.until(lambda: not sleepers.alive(former), 10)
    cri.until(lambda: sleepers.helpers().get("responder", former) != former, 30)
    cri.until(lambda: listening(one), 30)
    assert not listening(one) & before
    assert fetch(one.ip) == "page"
    assert one.reach("RUNNING")["failed_wakes"] == 0


def listening(one: Sleeper) -> set[int]:
    """TCP ports that somebody listens on in its pod."""
    lines = Path(f"/proc/{one.pid}/net/tcp").read_text().splitlines()[1:]
    fields = [line.split() for line in lines]
    return {int(field[1].rpartition(":")[2], 16) for field in fields if field[3] == "0A"}


def test_nobody_in_the_pod_reaches_the_responder(pods: Pods, kubelet: Kubelet) -> None:
    """It answers for every pod of the node: whoever could keep it busy from one would fail the probes of all."""
    pod = pods(annotations={SCALEDOWN: "1h"})
    neighbour = sleepers.python(pods, pod=pod, name="neighbour")
    before = listening(neighbour)
    asleep = sleepers.python(pods, HTTP, pod=pod, port=8)
    asleep.sleep()
    assert kubelet.http(pod.ip, WEB) == "HTTP/1.1 200 OK"
    (port,) = listening(neighbour) - before
    for family, ip in (
        *(("AF_INET", ip) for ip in ("127.0.0.1", "127.0.0.2", pod.ip)),
        *(("AF_INET6", ip) for ip in ("::1", pod.ip6)),
    ):
        call = f"socket.socket(socket.{family}).connect_ex(({ip!r}, {port}))"
        assert neighbour.ask(call) == errno.ECONNREFUSED, ip
    sleeps_on(asleep)


def test_the_responder_has_no_rights(pods: Pods, kubelet: Kubelet) -> None:
    """It reads what the kubelet and applications send, and takes TLS apart."""
    one = web(pods, "1h")
    one.sleep()
    assert kubelet.http(one.ip, WEB, "/empty", agent="kube-lifecycle/1.35")
    lines = Path(f"/proc/{sleepers.helpers()['responder']}/status").read_text().splitlines()
    status = {key: value.split() for key, _, value in (line.partition(":") for line in lines)}
    assert "0" not in status["Uid"] + status["Gid"] + status["Groups"]
    assert all(int(status[name][0], 16) == 0 for name in ("CapInh", "CapPrm", "CapEff", "CapAmb"))
    assert status["NoNewPrivs"] == ["1"]


def test_a_hook_on_a_connection_from_before_the_wake_is_passed_on(
    pods: Pods, kubelet: Kubelet
) -> None:
    """Also when the responder has left the pod meanwhile, in which nobody sleeps any more."""
    one = web(pods, "1h")
    before = listening(one)
    one.sleep()
    kubelet.call("park", one.ip, WEB, 1)
    assert fetch(one.ip) == "page"
    cri.until(lambda: not listening(one) - before, 30)
    answer = kubelet.call("say", "/empty", "kube-lifecycle/1.35", patience.seconds(10))
    assert answer.startswith("HTTP/1.1 204 No Content")
    one.unharmed()


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


# --- what comes and goes ---------------------------------------------------------------------------------------------


def test_what_has_ended_without_a_daemon_is_not_listened_for(pods: Pods, kubelet: Kubelet) -> None:
    """The responder lets go of the network of a pod that was deleted meanwhile."""
    web(pods, "1h").sleep()
    responder = sleepers.helpers()["responder"]
    before = sockets(responder)
    pod = pods(annotations={SCALEDOWN: "1h"})
    one = sleepers.python(pods, HTTP, pod=pod)
    one.sleep()
    assert kubelet.http(one.ip, WEB) == "HTTP/1.1 200 OK"
    cri.until(lambda: sockets(responder) == before + 2, 10)
    with sleepers.without_daemon():
        pod.remove()
        assert sockets(responder) == before + 2
    cri.until(lambda: sockets(responder) == before, 30)


def sockets(pid: int) -> int:
    """How many a process has."""
    found = 0
    for path in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            found += os.readlink(path).startswith("socket:")
    return found


def test_one_of_another_version_ends(pods: Pods, kubelet: Kubelet) -> None:
    """When the next daemon comes, and its last connection is over; the present one answers on."""
    one = web(pods, "1h")
    one.sleep()
    folder = settings.Settings().run_dir / "responder"
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as control:
        control.bind(str(folder / "0123456789ab.sock"))
        control.listen()
        former = subprocess.Popen(
            [sys.executable, "-m", "redirector.responder", str(control.fileno())],
            pass_fds=[control.fileno()],
        )
    kubelets.restart()
    assert former.wait(patience.seconds(20)) == 0
    assert not (folder / "0123456789ab.sock").exists()
    assert kubelet.http(one.ip, WEB) == "HTTP/1.1 200 OK"
    sleeps_on(one)


def test_a_kubelet_that_was_started_anew_is_known(pods: Pods, kubelet: Kubelet) -> None:
    """Its cgroup has the same name and is another one; the daemon sees that within seconds."""
    one = web(pods, "1h")
    one.sleep()
    before = linked()
    kubelet.start_anew()
    cri.until(lambda: linked() != before, 30)
    assert kubelet.http(one.ip, WEB) == "HTTP/1.1 200 OK"
    sleeps_on(one)


def linked() -> int:
    """The link of the program on the kubelet's cgroup."""
    return (settings.Settings().pin_root / "kubelet-0").stat().st_ino
