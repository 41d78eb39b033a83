"""Who answers the kubelet for those that sleep: without the daemon, beside the application, with no rights."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from node import kubelets, sleepers
from node.kubelets import Kubelet, Probing
from node.sleepers import SCALEDOWN, Sleeper
from node.webs import HTTP, WEB, fetch, sleeps_on, web

from bpf import maps, pins
from checkpointer import settings
from dev import cri, patience

Pods = Callable[..., cri.Pod]

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
    cri.until(lambda: not sleepers.alive(former), 30)
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
    cri.until(lambda: not sleepers.alive(former), 30)
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
    cri.until(
        lambda: len(sockets(responder) - before) == 2, 30
    )  # a connection that was answered goes first
    listeners = sockets(responder) - before
    with sleepers.without_daemon():
        pod.remove()
        assert listeners <= sockets(responder)
    cri.until(lambda: not listeners & sockets(responder), 30)


def sockets(pid: int) -> set[str]:
    """Those of a process, connections of an earlier test that have not ended yet among them."""
    found = set()
    for path in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            found.add(os.readlink(path))
    return {name for name in found if name.startswith("socket:")}


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
