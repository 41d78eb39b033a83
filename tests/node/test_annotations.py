"""What a pod's annotations do, and what is said of those that do nothing.

The behaviours that have a file of their own are shown there, each test marked with the annotation that it shows.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from node import clients, sleepers
from node.annotated import OTHER, PREFIX, wanting

from dev import cri

Pods = Callable[..., cri.Pod]
Run = Callable[..., cri.Result]

#: Opens a second port in the application.
TWO_PORTS = (
    f"second = Server(('::', {OTHER}), Ask); "
    "threading.Thread(target=second.serve_forever, args=(0.1,), daemon=True).start()"
)

#: An application without a port, whose memory shows in its log when it is sent SIGUSR1. It waits for the signal: a
#: handler could run between the wake and the sleep(2) that it was to end.
PORTLESS = """
import signal, socket
asked = 0
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
SETUP
print("up", flush=True)
while True:
    signal.sigwait([signal.SIGUSR1])
    asked += 1
    print("asked", asked, flush=True)
"""


def portless(pod: cri.Pod, setup: str = "", name: str = "worker") -> sleepers.Sleeper:
    """Start a container that listens on nothing."""
    words = ["python3", "-c", PORTLESS.replace("SETUP", setup)]
    one = sleepers.Sleeper(pod.run("localhost/python:1", words, name=name))
    cri.until(lambda: "up" in one.container.logs(), 30)
    sleepers.known(one)
    return one


# --- which containers, which ports ------------------------------------------------------------------------------------


@pytest.mark.annotation("container-names")
def test_only_named_containers_sleep(pods: Pods) -> None:
    """A container that is not named has its own PID 1, stays awake, and says where its name is missing."""
    pod = wanting(pods, container_names=" web , worker", scaledown_duration="1s")
    web = sleepers.python(pods, pod=pod, name="web")
    other = sleepers.python(pods, pod=pod, port=OTHER, name="other")
    web.reach("ASLEEP", timeout=20)
    assert other.state == "UNMANAGED"
    assert "not named in zeropod.ctrox.dev/container-names: ' web , worker'" in other.why()
    with sleepers.Talk(pod.ip, port=OTHER) as talk:
        assert talk.ask("os.getpid()") == 1
    assert web.state == "ASLEEP"
    assert web.ask("1") == 1
    web.unharmed()


@pytest.mark.annotation("container-names")
def test_a_name_that_no_container_has_is_told(pods: Pods) -> None:
    """In `why` of the others, with the one that was perhaps meant; it is no error."""
    pod = wanting(pods, container_names="web,sidecra")
    web = sleepers.python(pods, pod=pod, name="web")
    sidecar = sleepers.python(pods, pod=pod, port=OTHER, name="sidecar")
    for one in (web, sidecar):
        assert "name sidecra, which the pod has not had so far (only sidecar, web)" in one.why()
        assert "was sidecar meant?" in one.why()
    assert web.sleep()["state"] == "ASLEEP"
    assert web.ask("1") == 1


@pytest.mark.annotation("ports-map")
def test_only_named_ports_count(pods: Pods) -> None:
    """Traffic to another port of the container is no activity and wakes nobody; it is answered after the wake."""
    pod = wanting(pods, ports_map=f"web={sleepers.PORT}", scaledown_duration="2s")
    web = sleepers.python(pods, TWO_PORTS, pod=pod, name="web")
    deadline = time.monotonic() + 20
    with sleepers.Talk(pod.ip, port=OTHER) as talk:
        while web.state == "RUNNING" and time.monotonic() < deadline:
            talk.send("memory.update(mark=1)")
            time.sleep(0.2)
        web.reach("ASLEEP")
        waiting = socket.socket()
        waiting.settimeout(2)
        with contextlib.closing(waiting), pytest.raises(TimeoutError):
            waiting.connect((pod.ip, OTHER))
        talk.send("'on the other port'")
        time.sleep(1)
        assert web.state == "ASLEEP"
        assert web.ask("memory['mark']") == 1
        cri.until(lambda: talk.answer() == "on the other port", 30)
    web.unharmed()


@pytest.mark.annotation("ports-map")
def test_a_named_port_without_a_listener_is_not_held(pods: Pods) -> None:
    """Somebody else may open it: asleep a client is refused at once, as awake, and `why` tells of the port."""
    pod = wanting(pods, ports_map=f"web={sleepers.PORT},{OTHER}")
    web = sleepers.python(pods, pod=pod, name="web")
    web.sleep()
    with pytest.raises(ConnectionRefusedError):
        sleepers.Talk(pod.ip, port=OTHER)
    assert web.state == "ASLEEP"
    assert f"ports-map names tcp/{OTHER} for it, on which it does not listen" in web.why()


@pytest.mark.annotation("ports-map")
def test_without_any_of_its_named_ports_a_container_stays_awake(pods: Pods) -> None:
    """No packet that counts could wake it."""
    pod = wanting(pods, ports_map="web=9999", scaledown_duration="1s")
    web = sleepers.python(pods, pod=pod, name="web")
    cri.until(lambda: "none of the ports that" in web.why(), 30)
    time.sleep(2)
    assert web.info()["sleeps"] == 0
    assert "tcp/9999" in web.why()


@pytest.mark.annotation("ports-map")
def test_a_named_udp_port_wakes(pods: Pods) -> None:
    """And a TCP port of the same number does not."""
    setup = (
        "udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); udp.bind(('', 53))\n"
        "def echo():\n"
        "    while True:\n"
        "        data, peer = udp.recvfrom(100); udp.sendto(data, peer)\n"
        "threading.Thread(target=echo, daemon=True).start()"
    )
    pod = wanting(pods, ports_map="dns=53/udp")
    dns = sleepers.python(pods, setup, pod=pod, port=53, name="dns")
    dns.sleep()
    with socket.socket() as client:
        client.settimeout(2)
        with pytest.raises(TimeoutError):
            client.connect((pod.ip, 53))
    assert dns.state == "ASLEEP"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(20)
        client.sendto(b"question", (pod.ip, 53))
        assert client.recv(100) == b"question"
    assert dns.reach("RUNNING")["wake_cause"] == "udp"


# --- containers without a port ----------------------------------------------------------------------------------------


@pytest.mark.annotation("portless-containers")
def test_a_named_container_sleeps_without_a_port(pods: Pods) -> None:
    """It falls asleep by itself; an exec, a signal and `zeropod wake` wake it, with its memory."""
    pod = wanting(pods, portless_containers="worker", scaledown_duration="1s")
    worker = portless(pod)
    other = portless(pod, name="other")
    worker.reach("ASLEEP", timeout=20)
    assert worker.tree() == []
    assert worker.container.exec(["true"]).code == 0
    assert worker.reach("RUNNING")["wake_cause"] == "exec"
    worker.reach("ASLEEP", timeout=20)
    assert worker.wake()["state"] == "RUNNING"
    worker.reach("ASLEEP", timeout=20)
    for count in (1, 2):
        os.kill(worker.pid, signal.SIGUSR1)
        cri.until(lambda: f"asked {count}\n" in worker.container.logs(), 10)  # noqa: B023
        worker.reach("ASLEEP", timeout=20)
    worker.unharmed()
    assert (other.state, other.info()["sleeps"]) == ("RUNNING", 0)
    assert "no port" in other.why()


@pytest.mark.annotation("portless-containers")
def test_data_on_its_own_connection_wakes_a_container_without_a_port(pods: Pods) -> None:
    """The connection is the only door that packets have to it."""
    with clients.Listener(clients.NODE) as there:
        call = (
            f"line = socket.create_connection(('{there.address}', {there.port}))\n"
            "import threading\n"
            "def echo():\n"
            "    while data := line.recv(100): line.sendall(data.upper())\n"
            "threading.Thread(target=echo, daemon=True).start()"
        )
        worker = portless(wanting(pods, portless_containers="worker"), call)
        line = there.accept()
        for word in (b"one", b"two"):
            worker.sleep()
            assert "wakes it" in worker.why()
            line.sendall(word)
            assert line.recv(100) == word.upper()
            assert worker.reach("RUNNING")["wake_cause"] == "tcp-data"
    worker.unharmed()


# --- how it is restored -----------------------------------------------------------------------------------------------


@pytest.mark.annotation("lazy-restore")
@pytest.mark.parametrize(
    ("choice", "megabytes", "lazily"),
    [("auto", 0, False), ("auto", 60, True), ("true", 0, True), ("false", 60, False)],
)
def test_memory_is_loaded_behind_the_application_or_before_it(
    pods: Pods, choice: str, megabytes: int, lazily: bool
) -> None:
    """By its size unless its owner has chosen; the memory is the same."""
    pod = wanting(pods, lazy_restore=choice)
    setup = f"import hashlib; memory['all'] = os.urandom({megabytes} << 20)"
    web = sleepers.python(pods, setup, pod=pod)
    digest = web.ask("hashlib.sha256(memory['all']).hexdigest()")
    web.sleep()
    log = Path("/var/log/node/daemon.log")
    before = log.stat().st_size
    assert web.ask("hashlib.sha256(memory['all']).hexdigest()") == digest
    web.reach("RUNNING")
    cri.until(lambda: not web.info()["draining"], 30)
    if lazily:
        cri.until(lambda: b"drain.complete" in log.read_bytes()[before:], 30)
    assert (b"drain.complete" in log.read_bytes()[before:]) is lazily
    web.unharmed()


# --- what is accepted and changes nothing -----------------------------------------------------------------------------


@pytest.mark.annotation("probe-buffer-size", "connect-timeout", "proxy-timeout")
def test_limits_of_a_proxy_limit_nothing_here(pods: Pods) -> None:
    """They are told as notes, and the connection that wakes outlives them all."""
    limits = {"probe_buffer_size": "16", "connect_timeout": "1ms", "proxy_timeout": "500ms"}
    web = sleepers.python(pods, pod=wanting(pods, **limits))
    for name in limits:
        told = f"{PREFIX}{name.replace('_', '-')} changes nothing: it limits the original's proxy"
        assert any(note.startswith(told) for note in web.info()["notes"])
        assert told in web.why()
    web.sleep()
    with web.talk() as talk:
        assert talk.ask("time.sleep(1) or 1") == 1
        time.sleep(1)
        assert talk.ask("2") == 2


@pytest.mark.annotation("migrate", "live-migrate", "disable-migrate-data")
def test_what_is_not_acted_on_yet_is_told(pods: Pods) -> None:
    """The container sleeps and wakes, and its owner knows that nothing else is done."""
    later = {
        "migrate": "python",
        "live_migrate": "python",
        "disable_migrate_data": "true",
    }
    web = sleepers.python(pods, pod=wanting(pods, **later))
    for name in later:
        assert (
            f"{PREFIX}{name.replace('_', '-')} changes nothing: it is not acted on yet"
            in web.why()
        )
    web.sleep()
    assert web.ask("1") == 1


@pytest.mark.annotation("cpu-requests", "memory-requests")
def test_what_the_originals_manager_wrote_is_passed_over(pods: Pods, zeropod: Run) -> None:
    """Beside a wish nothing is said about it, and by itself it is none."""
    written = {"cpu_requests": '{"python":"100m"}', "memory_requests": "no JSON"}
    web = sleepers.python(pods, pod=wanting(pods, **written))
    assert (web.state, web.info()["notes"]) == ("RUNNING", [])
    alone = pods(annotations={PREFIX + "cpu-requests": "{}", PREFIX + "memory-requests": "{}"})
    alone.run("localhost/busybox:1", ["sleep", "1000"])
    assert zeropod("why", f"default/{alone.name}").code == 3


# --- what is said -----------------------------------------------------------------------------------------------------


def test_wishes_are_shown(pods: Pods, zeropod: Run) -> None:
    """`list` shows what differs from the default as it was written, and how much `why` has to tell."""
    pod = wanting(
        pods, scaledown_duration="60s", min_awake="90s", ignore_ports=" 9090 ", migrate="x"
    )
    web = sleepers.python(pods, pod=pod)
    [row] = zeropod("list", web.reference).out.splitlines()[1:]
    assert row.endswith("   ignore-ports=9090 min-awake=90s (2 notes, see why)")
    assert "Its annotations: ignore-ports=9090, min-awake=90s. Note: " in web.why()


@pytest.mark.parametrize(
    ("annotations", "said"),
    [
        ({"scaledown-duration": "soon"}, "scaledown-duration: 'soon': it is no duration; write"),
        ({"scale-down-duration": "5s"}, "did you mean scaledown-duration?"),
        (
            {"ports-map": "web=80,99999"},
            "ports-map: 'web=80,99999': '99999' is no port; allowed are",
        ),
        ({"ports-map": "web:80"}, "'web:80' is not of the form container=ports"),
        ({"container-names": "web,web"}, "container-names: 'web,web': it names web twice"),
        ({"container-names": "my web"}, "'my web' is no name of a container"),
        ({"pre-dump": "yes"}, "pre-dump: 'yes': it is neither"),
        ({"probe-buffer-size": "1k"}, "probe-buffer-size: '1k': it is no whole number"),
        ({"max-image-size": "512m"}, "max-image-size: '512m': it is no amount of memory"),
        ({"cpu-threshold": "5%"}, "cpu-threshold: '5%': it is no amount of CPU"),
        ({"ignore-from": "10.0.0.5/8"}, "write 10.0.0.0/8 or 10.0.0.5"),
        ({"connections": "closed"}, "did you mean close?"),
        ({"ports-map": "web=80", "ignore-ports": "80"}, "contradict each other: port 80"),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, dict) else "",
)
def test_a_mistake_leaves_the_pod_alone(
    pods: Pods, zeropod: Run, annotations: dict[str, str], said: str
) -> None:
    """The application is PID 1 and runs as in any pod; `why` names key, value and what is allowed."""
    pod = pods(annotations={PREFIX + name: value for name, value in annotations.items()})
    plain = sleepers.Sleeper(pod.run("localhost/busybox:1", ["sleep", "1000"], name="web"))
    plain.reach("UNMANAGED")
    assert said in zeropod("why", plain.reference).out
    assert plain.supervisor() == "sleep"
    plain.unharmed()
