"""The plugin comes and goes: who is managed then, who is not and says why, and who is found again."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from node import sleepers
from node.injected import FOREVER, SHELL, WANTED, injected, supervised, untouched
from node.plugins import Plugin

from dev import cri


def test_the_breaker_starts_the_next_life_plain(
    pods: Callable[..., cri.Pod], stored: Callable[[cri.Container], Any], plugin: Plugin
) -> None:
    """A container that ended at once under the supervisor: plain, with a reason, then managed."""
    pod = pods(annotations=WANTED)
    for attempt, managed in enumerate([True, False, True]):
        container = pod.create(SHELL, ["sh", "-c", "exit 1"], attempt=attempt)
        assert injected(stored(container)) is managed
        if not managed:
            told = plugin.said("container.unmanaged", id=container.id)
            assert "its last life ended" in told["reason"]
            assert untouched(stored(container))
        container.start()
        container.wait("exited")
        cri.until(lambda: plugin.log().count("container.stopped") > attempt, 10)  # noqa: B023
        container.remove()


@pytest.mark.both
def test_a_killed_plugin_takes_up_where_it_was(
    pods: Callable[..., cri.Pod], plugin: Plugin
) -> None:
    """Running containers stay managed, are found again, and new ones are injected again."""
    pod = pods(annotations=WANTED)
    before = pod.run(SHELL, FOREVER, name="before")
    pid, started = before.pid, before.status().started_at
    plugin.said("container.managed", pid=pid)
    plugin.mark = plugin.LOG.stat().st_size
    plugin.kill()
    plugin.said("container.managed", pid=pid)
    assert supervised(before)
    assert (before.pid, before.status().started_at) == (pid, started)
    after = pod.run(SHELL, FOREVER, name="after")
    assert supervised(after)


@pytest.mark.both
def test_a_sleeping_container_stays_asleep_when_the_plugin_restarts(
    pods: Callable[..., cri.Pod], plugin: Plugin
) -> None:
    """The new plugin reports it as managed, the daemon keeps it, its data is there at the wake."""
    one = sleepers.redis(pods, scaledown="0")
    assert sleepers.command(one.ip, "SET", "key", "value") == "+OK"
    one.sleep()
    plugin.mark = plugin.LOG.stat().st_size
    plugin.kill()
    plugin.said("container.managed", pid=one.pid)
    plugin.said("daemon.connected")
    time.sleep(0.5)
    assert one.info()["state"] == "ASLEEP"
    assert sleepers.command(one.ip, "GET", "key").endswith("value")
    one.reach("RUNNING")


def test_a_plugin_killed_between_create_and_start_leaves_a_managed_container(
    pods: Callable[..., cri.Pod], plugin: Plugin
) -> None:
    """What is stored is what starts; the plugin finds it when it is back."""
    container = pods(annotations=WANTED).create(SHELL, FOREVER)
    plugin.away()
    container.start()
    assert supervised(container)
    plugin.back()
    plugin.said("container.managed", pid=container.pid)


def test_without_the_plugin_containers_are_plain_and_later_say_why(
    pods: Callable[..., cri.Pod], stored: Callable[[cri.Container], Any], plugin: Plugin
) -> None:
    """Nothing waits for us; a plugin that comes later does not touch what it did not make."""
    plugin.away()
    container = pods(annotations=WANTED).run(SHELL, FOREVER)
    plugin.back()
    told = plugin.said("container.unmanaged", id=container.id)
    assert "while the plugin was not connected" in told["reason"]
    assert not supervised(container)
    assert untouched(stored(container))


@pytest.mark.both
def test_a_restarted_containerd_is_found_again(
    pods: Callable[..., cri.Pod], plugin: Plugin
) -> None:
    """The same process registers again; the first container after that is injected."""
    pod = pods(annotations=WANTED)
    before = pod.run(SHELL, FOREVER, name="before")
    pid = before.pid
    process = Path("/run/node/plugin.pid").read_text()
    plugin.said("container.managed", pid=pid)
    plugin.mark = plugin.LOG.stat().st_size
    os.kill(int(Path("/run/node/containerd.pid").read_text()), signal.SIGKILL)
    plugin.said("nri.synchronized", wanted=1)
    assert before.pid == pid
    assert supervised(before)
    after = pod.run(SHELL, FOREVER, name="after")
    assert supervised(after)
    assert Path("/run/node/plugin.pid").read_text() == process


def test_forty_containers_at_once(pods: Callable[..., cri.Pod], plugin: Plugin) -> None:
    """Created and started as fast as containerd can: every one is managed, none is rejected."""
    started = [pods(annotations=WANTED) for _ in range(4)]
    containers = [
        pod.run(SHELL, FOREVER, name=f"c{number}") for pod in started for number in range(10)
    ]
    assert all(supervised(container) for container in containers)
    for container in containers:
        plugin.said("container.managed", pid=container.pid)
