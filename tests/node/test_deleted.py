"""A pod that is deleted in any state leaves nothing behind."""

from __future__ import annotations

import contextlib
import functools
import os
import random
import threading
import time
from collections.abc import Collection
from pathlib import Path

import pytest
from node import sleepers
from node.crashes import SLEEP_SPAN, STAGING, STATE, WAKE_SPAN, Pods, damage, in_background
from node.sleepers import Sleeper

from bpf.maps import Maps
from bpf.pins import Pins
from checkpointer import settings
from dev import cri

RECORDS = settings.Settings().run_dir / "containers"


# --- the end ----------------------------------------------------------------------------------------------------------


@functools.cache
def pinned() -> Maps:
    """The datapath's maps, opened once: each time would cost ten descriptors."""
    return Maps(Pins(settings.Settings().pin_root).map)


def traces() -> dict[str, set[str]]:
    """What containers leave with us, by kind."""
    maps = pinned()
    tables = ("pods", "ports", "conns", "activity", "pod_names", "hold_names")
    daemon = sleepers.service_pid("daemon")
    found = {f"map {name}": {repr(key) for key in getattr(maps, name)} for name in tables}
    found["images"] = {path.name for path in (STATE / "images").iterdir()}
    found["staging"] = {path.name for path in STAGING.iterdir()}
    found["records"] = {path.name for path in RECORDS.iterdir()}
    found["workers"] = {
        f"{pid} {sleepers.comm(pid)}"
        for zygote in sleepers.helpers().values()
        for pid in sleepers.descendants(zygote)
    }
    found["marks"] = set()
    for info in Path(f"/proc/{daemon}/fdinfo").iterdir():
        with contextlib.suppress(FileNotFoundError):
            lines = info.read_text().splitlines()
            found["marks"] |= {line for line in lines if line.startswith("fanotify ")}
    found["threads of pods"] = {
        os.readlink(link) for link in Path(f"/proc/{daemon}/task").glob("*/ns/net")
    }
    found["listed"] = {one["id"] for one in sleepers.call("List")}
    return found


def nothing_since(before: dict[str, set[str]], what: str, but: Collection[str] = ()) -> None:
    """Wait until there are no traces but those of before."""
    left: dict[str, set[str]] = {}

    def clean() -> bool:
        now = traces()
        left.clear()
        left.update({kind: now[kind] - before[kind] for kind in set(now) - set(but)})
        return not any(left.values())

    try:
        cri.until(clean, 30)
    except TimeoutError:
        pytest.fail(
            f"{what}: left behind { {kind: found for kind, found in left.items() if found} }"
        )


def descriptors() -> int:
    """How many the daemon has open."""
    return len(os.listdir(f"/proc/{sleepers.service_pid('daemon')}/fd"))


@pytest.mark.timeout(180)
def test_a_deleted_pod_leaves_nothing(pods: Pods, runtime: cri.Runtime) -> None:
    """A pod deleted in any state leaves no image, map entry, mark, record, process or cgroup behind."""
    warm = sleepers.python(pods)
    warm.sleep()
    warm.container.pod.remove()
    cri.until(lambda: not traces()["listed"], 30)
    time.sleep(0.5)
    before, open_before = traces(), descriptors()

    def running(_: Sleeper) -> None:
        return

    def falling_asleep(one: Sleeper) -> None:
        started.append(in_background(one.sleep))
        time.sleep(random.uniform(0.02, SLEEP_SPAN))

    def asleep(one: Sleeper) -> None:
        one.sleep()

    def waking(one: Sleeper) -> None:
        one.sleep()
        started.append(in_background(lambda: one.ask("1", timeout=3)))
        time.sleep(random.uniform(0.0, WAKE_SPAN))

    def failing(one: Sleeper) -> None:
        one.sleep()
        damage(one)
        started.append(in_background(lambda: one.ask("1", timeout=3)))
        cri.until(lambda: one.info()["failed_wakes"] > 0, 30)

    def held(one: Sleeper) -> None:
        one.ask("memory.update(ballast=os.urandom(40 << 20)) or 1")
        one.sleep()
        one.container.update(memory=16 << 20)
        started.append(in_background(lambda: one.ask("1", timeout=3)))
        cri.until(lambda: one.info()["kind"] == "no-room-container", 30)

    def draining(one: Sleeper) -> None:
        one.ask("memory.update(ballast=os.urandom(120 << 20)) or 1")
        one.sleep()
        one.ask("1")

    for bring in (
        running,
        falling_asleep,
        falling_asleep,
        asleep,
        waking,
        waking,
        failing,
        held,
        draining,
    ):
        started: list[threading.Thread] = []
        one = sleepers.python(pods)
        bring(one)
        one.container.stop(0)
        one.container.pod.remove()
        for thread in started:
            thread.join(30)
        nothing_since(before, f"deleted when it was {bring.__name__}")
    cri.until(lambda: descriptors() <= open_before + 1, 30)


@pytest.mark.timeout(120)
def test_a_pod_deleted_without_a_daemon_leaves_nothing(pods: Pods) -> None:
    """A sleeping pod that is deleted while there is no daemon leaves nothing once there is one again."""
    before = traces()
    one = sleepers.python(pods)
    one.sleep()
    with sleepers.without_daemon():
        one.container.pod.remove()
    # Of another daemon these have other numbers.
    nothing_since(before, "deleted", but={"marks", "threads of pods", "workers"})
