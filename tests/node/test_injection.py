"""Injection on a real containerd: what becomes PID 1, and what nobody can tell from before."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from node.injected import FOREVER, SHELL, WANTED, injected, supervised, untouched
from node.plugins import Plugin

from dev import cri
from nri_plugin import injection, seccomp


def wait_for(container: cri.Container, text: str) -> None:
    """Wait until a container has logged a text."""
    cri.until(lambda: text in container.logs(), 30)


@pytest.mark.both
def test_pid_1_is_the_supervisor(pods: Callable[..., cri.Pod], plugin: Plugin) -> None:
    """The container runs, its first process is ours, the application is its child."""
    container = pods(annotations=WANTED).run("localhost/redis:1")
    plugin.said("container.managed", pid=container.pid)
    assert supervised(container)
    cri.until(lambda: Path(f"/proc/{container.pid}/comm").read_text() == "zeropod:run\n", 30)
    children = Path(f"/proc/{container.pid}/task/{container.pid}/children")

    def names() -> list[str]:
        return [Path(f"/proc/{pid}/comm").read_text() for pid in children.read_text().split()]

    # Between fork and exec it has the supervisor's name.
    cri.until(lambda: names() == ["redis-server\n"], 30)
    cri.until(lambda: container.exec(["redis-cli", "ping"]).out == "PONG\n", 30)


@pytest.mark.both
def test_the_runtime_handler_alone_is_enough(pods: Callable[..., cri.Pod], plugin: Plugin) -> None:
    """A pod of the runtime class zeropod needs no annotation."""
    container = pods(runtime_handler="zeropod").run(SHELL, FOREVER)
    plugin.said("container.managed", pid=container.pid)
    assert supervised(container)


LOOK_AROUND = """
tr "\\0" "|" < /proc/$$/cmdline; echo
tr "\\0" "\\n" < /proc/$$/environ | sort
pwd; id -u; id -g; id -G; readlink /proc/$$/exe; ulimit -a; umask
while read -r name rest; do
    case $name in SigBlk:|SigIgn:|Cap*|NoNewPrivs:|Seccomp*|Groups:) echo "$name $rest" ;; esac
done < /proc/$$/status  # not by a child: who forks has all signals blocked for a moment
ls /proc/$$/fd; cat /proc/$$/oom_score_adj; echo looked around $((40 + 2)) times
exec sleep 100000
"""


@pytest.mark.both
@pytest.mark.parametrize(
    "security",
    [
        {},
        {"run_as_user": 1000, "run_as_group": 1001, "supplemental_groups": [2000]},
        {
            "run_as_user": 1000,
            "no_new_privs": True,
            "drop_all": True,
            "readonly_rootfs": True,
        },
    ],
    ids=["root", "user", "hardened"],
)
def test_an_application_cannot_tell(
    pods: Callable[..., cri.Pod], security: dict[str, Any]
) -> None:
    """Arguments, environment, directory, ids, capabilities, limits, signals and descriptors."""
    seen = []
    for wish in ({}, WANTED):
        container = pods("twin", annotations=wish).run(
            SHELL,
            ["/bin/sh", "-c", LOOK_AROUND],
            ["argv zero", "a b", "", "*"],
            env={"NAME": "two words", "EMPTY": ""},
            working_dir="/tmp",
            security=security,
        )
        wait_for(container, "looked around 42 times")
        assert supervised(container) is bool(wish)
        seen.append(container.logs())
    assert seen[0] == seen[1]
    assert "/bin/sh|-c|" in seen[0]


@pytest.mark.both
@pytest.mark.parametrize(
    ("script", "code"),
    [
        ("exit 0", 0),
        ("exit 3", 3),
        ("kill -9 $$", 137),
        ("kill -11 $$", 139),
        ("sleep 0.2; exit 70", 70),
    ],
)
def test_exit_codes_are_true(pods: Callable[..., cri.Pod], script: str, code: int) -> None:
    """The container ends with the application, with its status."""
    container = pods(annotations=WANTED).run(SHELL, ["sh", "-c", script])
    status = container.wait("exited")
    assert (status.exit_code, status.reason) == (code, "Completed" if code == 0 else "Error")


@pytest.mark.both
def test_sigterm_reaches_the_application(pods: Callable[..., cri.Pod]) -> None:
    """Its handler runs and its status is the container's; at the end of the grace period it would be 137."""
    script = "trap 'echo caught; exit 42' TERM; echo ready; while :; do sleep 0.1; done"
    container = pods(annotations=WANTED).run(SHELL, ["sh", "-c", script])
    wait_for(container, "ready")
    assert container.stop(20).exit_code == 42
    assert "caught" in container.logs()


@pytest.mark.both
@pytest.mark.parametrize("program", ["nonexist", "/no/such/program", "/etc/passwd", "/bin"])
def test_a_missing_program_is_the_runtimes_error(
    pods: Callable[..., cri.Pod], program: str
) -> None:
    """StartContainer fails with the same words and the same status as without us."""
    told, states = [], []
    for wish in ({}, WANTED):
        container = pods(annotations=wish).create(SHELL, [program])
        with pytest.raises(grpc.RpcError) as caught:
            container.start()
        found = re.search(
            r"unable to start container process: (exec: .*?)(: unknown)?$", caught.value.details()
        )
        told.append(found and found[1])
        status = container.status()
        states.append((status.state, status.exit_code, status.reason))
    assert told[0] == told[1]
    assert program in str(told[1])
    assert states == [("exited", 128, "StartError")] * 2


@pytest.mark.both
def test_an_unwanted_container_is_not_touched(
    pods: Callable[..., cri.Pod], stored: Callable[[cri.Container], Any], plugin: Plugin
) -> None:
    """Its record was never written after containerd made it, and nothing of ours is in it."""
    container = pods(annotations={"app": "web"}).run(SHELL, FOREVER)
    assert untouched(stored(container))
    assert not supervised(container)
    assert "/.zeropod" not in Path(f"/proc/{container.pid}/mountinfo").read_text()
    assert container.id not in plugin.log()


@pytest.mark.both
@pytest.mark.parametrize(
    ("described", "run", "said"),
    [
        ({"privileged": True}, {"security": {"privileged": True}}, "privileged"),
        ({}, {"security": {"add": ["SYS_PTRACE"]}}, "CAP_SYS_PTRACE"),
        ({"host_network": True}, {}, "hostNetwork"),
        ({"host_pid": True}, {}, "process namespace"),
        ({"share_pid": True}, {}, "process namespace"),
        ({}, {"tty": True}, "tty"),
        ({"annotations": {"zeropod.ctrox.dev/scaledown-duration": "soon"}}, {}, "'soon'"),
        ({"annotations": {"zeropod.ctrox.dev/nonsense": "1"}}, {}, "nonsense"),
    ],
    ids=["privileged", "capability", "network", "pid", "shared", "tty", "value", "key"],
)
def test_refused_containers_run_plain_and_say_why(
    pods: Callable[..., cri.Pod],
    stored: Callable[[cri.Container], Any],
    plugin: Plugin,
    described: dict[str, Any],
    run: dict[str, Any],
    said: str,
) -> None:
    """The container runs as if we were not there; its reason names what is in the way."""
    container = pods(**{"annotations": WANTED, **described}).run(SHELL, FOREVER, **run)
    assert said in plugin.said("container.unmanaged", id=container.id)["reason"]
    assert not supervised(container)
    assert untouched(stored(container))


def test_the_stored_spec_differs_in_four_things_only(
    pods: Callable[..., cri.Pod], stored: Callable[[cri.Container], Any]
) -> None:
    """Args, one mount, one annotation, a rule for two system calls: undone, the record is the one of an unwanted twin."""
    specs = []
    for wish in ({}, WANTED):
        pod = pods("twin", annotations=wish)
        container = pod.create(SHELL, FOREVER)
        text = stored(container).spec.value.decode()
        for own in (container.id, pod.id, pod.uid):
            text = text.replace(own, "OWN")
        specs.append(json.loads(re.sub(r"/proc/\d+/ns", "/proc/N/ns", text)))
    plain, changed = specs
    assert changed["process"]["args"] == ["/.zeropod/init", "--", *FOREVER]
    assert json.loads(changed["annotations"].pop(injection.MARK)) == FOREVER
    assert changed["mounts"].pop()["destination"] == "/.zeropod"
    profile = plain["linux"].pop("seccomp", None)
    assert changed["linux"].pop("seccomp") == seccomp.without(
        profile, [seccomp.IO_URING, seccomp.LANDLOCK]
    )
    changed["process"]["args"] = FOREVER
    assert changed == plain


def test_the_supervisors_directory_is_read_only(pods: Callable[..., cri.Pod]) -> None:
    """Not even root in the container can change what other containers execute."""
    container = pods(annotations=WANTED).run(SHELL, FOREVER)
    for command in ("touch /.zeropod/new", "echo x > /.zeropod/init", "rm /.zeropod/wake"):
        assert container.exec(["sh", "-c", command]).code != 0
    assert container.exec(["mount", "-o", "remount,rw", "/.zeropod"]).code != 0


def test_a_resource_update_keeps_the_supervisor(
    pods: Callable[..., cri.Pod], stored: Callable[[cri.Container], Any]
) -> None:
    """CRI rewrites the stored spec itself; ours is what it starts from."""
    container = pods(annotations=WANTED).create(SHELL, FOREVER)
    container.update(memory=64 << 20)
    assert injected(stored(container))
    container.start()
    assert supervised(container)
    container.update(memory=96 << 20)
    assert container.state == "running"
