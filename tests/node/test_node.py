"""The node itself: containerd runs pods on it, and they are reached as on any Kubernetes node."""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest

from dev import cgroups, cri

ECHO = """
import socketserver, socket
class Server(socketserver.ThreadingTCPServer):
    address_family = socket.AF_INET6
class Echo(socketserver.StreamRequestHandler):
    def handle(self):
        self.wfile.write(self.client_address[0].encode())
Server(("::", 7), Echo).serve_forever()
"""


def ask(address: str, port: int, question: bytes, timeout: float = 30.0) -> bytes:
    """Opens a connection, as soon as somebody listens, and returns the first answer."""
    deadline = time.monotonic() + timeout
    while True:
        try:
            with socket.create_connection((address, port), timeout=20) as stream:
                stream.sendall(question)
                return stream.recv(4096)
        except ConnectionRefusedError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)


@pytest.mark.both
def test_pod_answers_on_both_address_families(pod: cri.Pod) -> None:
    """The node reaches a pod by IPv4 and by IPv6."""
    pod.run("localhost/redis:1")
    assert ask(pod.ip, 6379, b"PING\r\n") == b"+PONG\r\n"
    assert ask(pod.ip6, 6379, b"PING\r\n") == b"+PONG\r\n"


@pytest.mark.both
def test_pods_reach_each_other(pods: Callable[..., cri.Pod]) -> None:
    """A pod reaches another one by IPv4 and by IPv6, and is seen with its own address."""
    server, client = pods(), pods()
    server.run("localhost/python:1", ["python3", "-c", ECHO])
    caller = client.run("localhost/busybox:1", ["sleep", "1000"])
    ask(server.ip, 7, b"")
    assert caller.exec(["nc", server.ip, "7"]).out == "::ffff:" + client.ip
    assert caller.exec(["nc", server.ip6, "7"]).out == client.ip6


@pytest.mark.parametrize("image", ["redis", "nginx", "python", "busybox", "programs"])
def test_images_run(pod: cri.Pod, image: str) -> None:
    """Every test image starts with the command it has."""
    one = pod.run(f"localhost/{image}:1", stdin=True)
    time.sleep(0.3)
    assert one.state == "running", one.logs()


def test_exec_returns_code_and_streams(pod: cri.Pod) -> None:
    """An exec hands back exit code, stdout and stderr."""
    one = pod.run("localhost/busybox:1", ["sleep", "1000"])
    assert one.exec(["sh", "-c", "echo out; echo err >&2; exit 5"]) == (5, "out\n", "err\n")


def test_exit_code_and_logs(pod: cri.Pod) -> None:
    """A container that ends by itself is exited with its code, and its log holds both streams."""
    one = pod.run("localhost/busybox:1", ["sh", "-c", "echo one; echo two >&2; exit 3"])
    status = one.wait("exited")
    assert (status.exit_code, status.reason) == (3, "Error")
    # Two pipes: their order in the log is not certain.
    assert one.logs("stdout") == "one\n"
    assert one.logs("stderr") == "two\n"


def test_description_reaches_the_container(pod: cri.Pod) -> None:
    """Environment, working directory, user, capabilities and a read-only root are as described."""
    one = pod.run(
        "localhost/busybox:1",
        ["sh", "-c"],
        [
            "echo $GREETING; pwd; id -u; grep -E 'CapEff|NoNewPrivs|Seccomp:' /proc/self/status; touch /x || exec sleep 9"
        ],
        env={"GREETING": "hello"},
        working_dir="/tmp",
        security={
            "run_as_user": 1000,
            "readonly_rootfs": True,
            "no_new_privs": True,
            "drop_all": True,
        },
    )
    cri.until(lambda: "touch" in one.logs())
    words = one.logs().split()
    assert words[:3] == ["hello", "/tmp", "1000"]
    assert "CapEff: 0000000000000000 NoNewPrivs: 1 Seccomp: 2" in " ".join(words)


def test_limits_of_container_and_pod(pods: Callable[..., cri.Pod]) -> None:
    """Limits are set in the container's cgroup and, as kubelet does it, in the pod's."""
    pod = pods(limits={"cpu_quota": 20000, "memory": 128 << 20})
    one = pod.run(
        "localhost/busybox:1",
        ["sleep", "1000"],
        resources={"cpu_quota": 10000, "memory": 64 << 20},
    )
    unified = cgroups.unified()
    memory = cgroups.ROOT / ("" if unified else "memory") / pod.cgroup
    item = "memory.max" if unified else "memory.limit_in_bytes"
    assert int((memory / item).read_text()) == 128 << 20
    assert int((memory / one.id / item).read_text()) == 64 << 20
    one.update(memory=96 << 20)
    assert int((memory / one.id / item).read_text()) == 96 << 20


def test_mounts(pod: cri.Pod, tmp_path: Path) -> None:
    """A directory of the node is mounted, read-only if wanted."""
    (tmp_path / "greeting").write_text("hello")
    mount = {"container_path": "/data", "host_path": str(tmp_path), "readonly": True}
    one = pod.run("localhost/busybox:1", ["sleep", "1000"], mounts=[mount])
    assert one.exec(["cat", "/data/greeting"]).out == "hello"
    assert one.exec(["touch", "/data/new"]).code != 0


@pytest.mark.both
def test_second_runtime_handler(pods: Callable[..., cri.Pod]) -> None:
    """A pod runs under the runtime handler `zeropod`."""
    one = pods(runtime_handler="zeropod").run("localhost/redis:1")
    assert one.exec(["redis-cli", "ping"]).out == "PONG\n"


def test_labels_are_those_of_kubelet(pod: cri.Pod) -> None:
    """The container's record carries kubelet's labels and its restart count."""
    one = pod.run("localhost/busybox:1", ["sleep", "1000"], name="app", attempt=2)
    status = one.status()
    labels = status.info["config"]["labels"]
    assert labels["io.kubernetes.pod.name"] == pod.name
    assert labels["io.kubernetes.container.name"] == "app"
    assert status.info["config"]["annotations"]["io.kubernetes.container.restartCount"] == "2"
    assert status.attempt == 2


def test_stop_delivers_sigterm(pod: cri.Pod) -> None:
    """A stop sends SIGTERM, and the handler's output and exit code arrive."""
    one = pod.run(
        "localhost/busybox:1",
        ["sh", "-c", "trap 'echo bye; exit 4' TERM; echo up; while :; do sleep 0.1; done"],
    )
    cri.until(lambda: "up" in one.logs())
    assert one.stop(10).exit_code == 4
    assert one.logs() == "up\nbye\n"


def test_log_goes_on_after_rotation(pod: cri.Pod) -> None:
    """After kubelet has moved the log away and asked to reopen it, lines go to a new file."""
    one = pod.run("localhost/busybox:1", ["sh", "-c", "while :; do echo tick; sleep 0.05; done"])
    cri.until(lambda: "tick" in one.logs())
    path = Path(one.status().log_path)
    path.rename(path.with_suffix(".old"))
    one.reopen_log()
    cri.until(lambda: path.exists() and "tick" in one.logs())


def test_machine_wide_sysctls_are_out_of_reach() -> None:
    """Nothing in the node can change a sysctl of the whole machine, only those of its own network."""
    path = Path("/proc/sys/vm/overcommit_memory")
    with pytest.raises(OSError, match="Read-only"):
        path.write_text(path.read_text())
    own = Path("/proc/sys/net/ipv4/ip_forward")
    own.write_text(own.read_text())


def test_services_come_back(runtime: cri.Runtime) -> None:
    """A containerd that is killed is started again and answers."""
    file = Path("/run/node/containerd.pid")
    before = int(file.read_text())
    os.kill(before, signal.SIGKILL)
    cri.until(lambda: file.exists() and file.read_text().strip() not in ("", str(before)))

    def answers() -> bool:
        try:
            return bool(runtime.call("Version").name)
        except grpc.RpcError:
            return False

    cri.until(answers, 30)


def test_plan_names_the_variant() -> None:
    """The node knows its own name."""
    assert json.loads(Path("/run/node/plan.json").read_text())["name"]
