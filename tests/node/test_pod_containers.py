"""Several containers in one pod: each sleeps by itself, beside init containers and ephemeral ones."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
from node import sleepers
from node.annotated import OTHER, wanting
from node.injected import supervised

from dev import cri

Pods = Callable[..., cri.Pod]


def over_localhost(port: int, expression: str) -> str:
    """Have an application ask another one of its pod."""
    return (
        f"(lambda s: (s.sendall({expression + chr(10)!r}.encode()), json.loads(s.makefile().readline()))[1])"
        f"(socket.create_connection(('127.0.0.1', {port}), 20))"
    )


@pytest.mark.both
def test_containers_of_a_pod_wake_each_other_over_localhost(pods: Pods) -> None:
    """Each sleeps alone by its own ports, and a connection from its neighbour wakes it like any other."""
    pod = wanting(pods)
    front = sleepers.python(pods, pod=pod, name="front")
    back = sleepers.python(pods, "memory['mark'] = 42", pod=pod, port=OTHER, name="back")
    for _ in range(3):
        back.sleep()
        assert front.state == "RUNNING"
        assert front.ask(over_localhost(OTHER, "memory['mark']")) == 42
        assert back.reach("RUNNING")["wake_cause"] == "tcp-connect"
    front.sleep()
    with sleepers.Talk(pod.ip, port=OTHER) as talk:
        assert talk.ask("memory['mark']") == 42
    assert front.state == "ASLEEP"
    back.sleep()
    # A cascade: one client's question wakes the one, whose question wakes the other.
    assert front.ask(over_localhost(OTHER, "memory['mark']")) == 42
    assert {front.reach("RUNNING")["wakes"], back.reach("RUNNING")["wakes"]} == {1, 4}
    front.unharmed()
    back.unharmed()


@pytest.mark.parametrize("names", ["back", "front,back"])
def test_a_kept_connection_between_containers_of_a_pod(pods: Pods, names: str) -> None:
    """Over localhost too it is there after a sleep, of one of its ends or of both."""
    pod = wanting(pods, container_names=names)
    front = sleepers.python(pods, pod=pod, name="front")
    back = sleepers.python(pods, pod=pod, port=OTHER, name="back")
    call = f"socket.create_connection(('127.0.0.1', {OTHER}), 20).makefile('rw')"
    front.ask(f"globals().update(line={call})")
    for number in range(1, 5):
        both = [back, front][: 2 if names == "front,back" else 1]
        for one in both if number % 2 else reversed(both):
            one.sleep()
        question = f"memory.update(n={number}) or memory\n"
        said = f"line.write({question!r}) and line.flush() or json.loads(line.readline())"
        assert front.ask(said) == {"n": number}
        assert back.reach("RUNNING")["wake_cause"] == "tcp-data"
    back.unharmed()
    front.unharmed()


@pytest.mark.both
def test_an_init_container_that_ends_well_is_managed_every_time(pods: Pods) -> None:
    """Its short life says nothing against the supervisor, and it harms neither its successors nor the pod's others."""
    pod = wanting(pods, scaledown_duration="1s")
    for attempt in range(3):
        init = pod.create(
            "localhost/busybox:1", ["sh", "-c", "sleep 1"], name="init", attempt=attempt
        ).start()
        assert supervised(init)
        assert init.wait("exited").exit_code == 0
        time.sleep(0.3)
    web = sleepers.python(pods, pod=pod, name="web")
    web.reach("ASLEEP", timeout=20)
    assert web.ask("1") == 1
    web.unharmed()


def test_pods_with_an_init_container(pods: Pods) -> None:
    """One pod after the other: nothing of an init container's short life is held against its namesake."""
    for _ in range(3):
        pod = wanting(pods)
        init = pod.run("localhost/busybox:1", ["sh", "-c", "sleep 1"], name="init")
        assert supervised(init)
        assert init.wait("exited").exit_code == 0
        web = sleepers.python(pods, pod=pod, name="web")
        assert web.sleep()["state"] == "ASLEEP"
        assert web.ask("1") == 1


@pytest.mark.parametrize(
    ("described", "state", "said"),
    [
        ({}, "RUNNING", "no port"),
        ({"stdin": True}, "RUNNING", "no port"),
        ({"stdin": True, "tty": True}, "UNMANAGED", "terminal"),
        ({"target": True}, "UNMANAGED", "process namespace"),
    ],
    ids=["plain", "stdin", "terminal", "target"],
)
def test_an_ephemeral_container_beside_a_sleeping_one(
    pods: Pods, described: dict[str, Any], state: str, said: str
) -> None:
    """What `kubectl debug` starts in a running pod disturbs nobody's sleep, and reaches the sleeping application."""
    pod = wanting(pods)
    web = sleepers.python(pods, "memory['mark'] = 42", pod=pod, name="web")
    web.sleep()
    if "target" in described:
        described = {"target": web.container.id}
    debug = sleepers.Sleeper(
        pod.run("localhost/python:1", ["sleep", "1000"], name="debugger", **described)
    )
    debug.reach(state)
    cri.until(lambda: said in debug.why(), 30)
    assert web.state == "ASLEEP"
    asked = (
        "import json, socket; s = socket.create_connection(('127.0.0.1', 7), 20); "
        "s.sendall(b\"memory['mark']\\n\"); print(s.makefile().readline())"
    )
    assert debug.container.exec(["python3", "-c", asked]).out.strip() == "42"
    for _ in range(2):
        web.sleep()
        assert web.ask("memory['mark']") == 42
    debug.container.stop(1)
    web.sleep()
    assert web.ask("memory['mark']") == 42
    web.unharmed()
