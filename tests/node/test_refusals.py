"""What is not put to sleep: the reason is said, and the application notices nothing."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from node import sleepers

from dev import cri
from ttrpc.errors import TtrpcError

Pods = Callable[..., cri.Pod]
Run = Callable[..., cri.Result]

#: io_uring_setup(8 entries); its descriptor, or -1.
IO_URING = "it = ctypes.CDLL(None).syscall(425, 8, ctypes.create_string_buffer(120))"


@pytest.mark.timeout(120)
def test_io_uring(pods: Pods) -> None:
    """An application with io_uring runs on unharmed over three idle periods, and `why` names io_uring."""
    pod = pods(annotations={sleepers.SCALEDOWN: "1s", "zeropod.ctrox.dev/allow-io-uring": "true"})
    one = sleepers.python(pods, IO_URING, pod=pod)
    if one.ask("it") < 0:
        pytest.skip("this kernel lets no container use io_uring")
    with one.talk() as talk:
        talk.ask("memory.update(a=1)")
        pid = one.tree()[0]
        for failures in (1, 2, 3):
            cri.until(lambda: one.info()["failed_sleeps"] >= failures, 50)  # noqa: B023 - called at once
            assert talk.ask("memory['a']") == 1
            assert one.tree()[0] == pid
    assert one.state == "RUNNING"
    assert one.supervisor() == "run"
    assert one.info()["sleeps"] == 0
    assert "io_uring" in one.why()
    one.unharmed()


@pytest.mark.parametrize(
    ("setup", "said", "cure"),
    [
        pytest.param(
            "child = os.fork() or [time.sleep(0.1) for _ in range(100000)]\n"
            "ptrace = ctypes.CDLL(None).ptrace(0x4206, child, 0, 0)",
            "is traced by",
            "os.kill(child, 9) or os.waitpid(child, 0)",
            id="tracer",
        ),
        pytest.param(
            "it = open('/config/..2026_01_02_03_04_05.678/key')",
            "configmap",
            "it.close()",
            id="configmap",
        ),
        pytest.param(
            "import resource\n"
            "resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096))\n"
            "them = [socket.create_server(('', 20000 + n)) for n in range(1024)]",
            "1025 ports",
            "them.pop().close()",
            id="ports",
        ),
    ],
)
def test_refused_before_anything_is_touched(
    pods: Pods, tmp_path: Path, setup: str, said: str, cure: str
) -> None:
    """What cannot be checkpointed is refused with its reason, and sleeps once the cause is gone."""
    folder = tmp_path / "..2026_01_02_03_04_05.678"
    folder.mkdir()
    (folder / "key").write_text("value")
    mount = {"container_path": "/config", "host_path": str(tmp_path), "readonly": True}
    one = sleepers.python(pods, setup, mounts=[mount])
    with one.talk() as talk:
        with pytest.raises(TtrpcError, match=said):
            one.sleep()
        assert said in one.why()
        assert talk.ask("1") == 1
        one.unharmed()
        talk.ask(cure)
        assert one.sleep()["state"] == "ASLEEP"
        assert talk.ask("2") == 2
    assert one.info()["failed_sleeps"] == 0


def test_no_port(pods: Pods) -> None:
    """An application that listens on no port stays awake, and `why` says that no packet could wake it."""
    pod = pods(annotations={sleepers.SCALEDOWN: "1s"})
    one = sleepers.Sleeper(pod.run("localhost/busybox:1", ["sleep", "1000"]))
    sleepers.known(one)
    cri.until(lambda: "no port" in one.why(), 30)
    time.sleep(2)
    assert one.state == "RUNNING"
    assert one.info()["sleeps"] == 0


@pytest.mark.parametrize(
    ("pod", "container", "said"),
    [
        pytest.param(
            {"privileged": True}, {"security": {"privileged": True}}, "privileged", id="privileged"
        ),
        pytest.param({}, {"security": {"add": ["SYS_PTRACE"]}}, "CAP_SYS_PTRACE", id="SYS_PTRACE"),
        pytest.param({"host_network": True}, {}, "hostNetwork", id="hostNetwork"),
        pytest.param({"share_pid": True}, {}, "shareProcessNamespace", id="shared processes"),
        pytest.param({"host_pid": True}, {}, "hostPID", id="hostPID"),
        pytest.param({}, {"tty": True}, "tty", id="terminal"),
        pytest.param(
            {"annotations": {"zeropod.ctrox.dev/colour": "blue"}}, {}, "zeropod.ctrox.dev/colour: 'blue'",
            id="unknown annotation",
        ),
        pytest.param(
            {"annotations": {sleepers.SCALEDOWN: "soon"}}, {}, sleepers.SCALEDOWN + ": 'soon'",
            id="unparsable duration",
        ),
        pytest.param(
            {"annotations": {sleepers.SCALEDOWN: "-5s"}}, {}, sleepers.SCALEDOWN + ": '-5s'",
            id="negative duration",
        ),
    ],
)  # fmt: skip
def test_not_managed(
    pods: Pods, zeropod: Run, pod: dict[str, Any], container: dict[str, Any], said: str
) -> None:
    """A container that cannot be managed runs as any other, `list` has it as UNMANAGED, and `why` says why."""
    one = pods(**{"annotations": {sleepers.SCALEDOWN: "1s"}, **pod})
    plain = one.run("localhost/busybox:1", ["sleep", "1000"], **container)
    reference = f"default/{one.name}"
    cri.until(lambda: "UNMANAGED" in zeropod("list", reference).out, 30)
    why = zeropod("why", reference)
    assert why.code == 0
    assert said in why.out
    assert "is not managed" in why.out
    refused = zeropod("sleep", reference)
    assert refused.code == 1
    assert said in refused.err
    assert Path(f"/proc/{plain.pid}/cmdline").read_bytes().startswith(b"sleep")
    assert plain.state == "running"


def test_unmanaged_pod(pods: Pods, zeropod: Run) -> None:
    """A pod that does not ask for zeropod is not listed, has its own PID 1 and never sleeps."""
    plain = pods()
    container = plain.run("localhost/python:1", ["python3", "-c", sleepers.code()])
    cri.until(lambda: "up" in container.logs(), 30)
    with sleepers.Talk(plain.ip) as talk:
        assert talk.ask("os.getpid()") == 1
    assert zeropod("list", f"default/{plain.name}").out.count("\n") == 1
    assert zeropod("why", f"default/{plain.name}").code == 3
    assert " /.zeropod " not in Path(f"/proc/{container.pid}/mountinfo").read_text()


def test_one_container_of_two(pods: Pods) -> None:
    """A sleeping container's neighbour in the pod is not touched: its connections go on during sleep and wake."""
    pod = pods(annotations={sleepers.SCALEDOWN: "1h"})
    asleep = sleepers.python(pods, pod=pod, name="asleep")
    awake = sleepers.python(pods, pod=pod, port=8000, name="awake")
    with sleepers.Talk(pod.ip, port=8000) as talk:
        for number in range(3):
            asleep.sleep()
            assert awake.state == "RUNNING"
            assert talk.ask(f"memory.update(n={number}) or memory['n']") == number
            with sleepers.Talk(pod.ip, port=8000) as fresh:
                assert fresh.ask("memory['n']") == number
            assert asleep.state == "ASLEEP"
            assert asleep.ask("1") == 1
            asleep.reach("RUNNING")
