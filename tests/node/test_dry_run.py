"""What a dry run decides, and that it leaves everything alone."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from node import sleepers
from node.scrapes import Series

from dev import cri
from ttrpc.errors import TtrpcError

Pods = Callable[..., cri.Pod]

ANNOTATIONS = {sleepers.SCALEDOWN: "1s", "zeropod.ctrox.dev/dry-run": "true"}

pytestmark = pytest.mark.annotation("dry-run")


def start(
    pods: Pods, setup: str = "", annotations: dict[str, str] = ANNOTATIONS
) -> sleepers.Sleeper:
    return sleepers.python(pods, setup, pod=pods(annotations=annotations))


def would_sleep(one: sleepers.Sleeper) -> None:
    reach(one, lambda found: found["would_sleep"])


def woken(one: sleepers.Sleeper, *causes: str) -> None:
    """Wait until each of these would have woken it once."""
    reach(one, lambda found: dict(found["would_wakes"]) == dict.fromkeys(causes, 1))


def reach(one: sleepers.Sleeper, condition: Callable[[dict[str, Any]], object]) -> None:
    found: dict[str, Any] = {}

    def reached() -> bool:
        found.update(one.info())
        return bool(condition(found))

    try:
        cri.until(reached, 30)
    except TimeoutError as error:
        raise TimeoutError(f"{error}: {found}") from error


def wakes(one: sleepers.Sleeper) -> dict[str, int]:
    return dict(one.info()["would_wakes"])


def test_nothing_sleeps(pods: Pods) -> None:
    """Idle it would sleep, which is said with the memory that this would save; the application is not touched."""
    one = start(pods, "memory['ballast'] = b'x' * (50 << 20)")
    tree, at = one.tree(), one.ask("time.monotonic()")
    begun = time.monotonic()
    would_sleep(one)
    found = one.info()
    assert (found["state"], found["sleeps"], found["would_sleeps"]) == ("RUNNING", 0, 1)
    assert 50 << 20 < found["would_save_bytes"] < 90 << 20
    assert 50 << 20 < (Series(one).value("zeropod_dry_run_memory_bytes") or 0) < 90 << 20
    assert one.supervisor() == "run"
    assert not one.image().exists()
    why = one.why()
    assert "dry-run is set" in why
    assert "would be asleep now" in why
    # Its clock never stood still, as it does over a checkpoint.
    passed = time.monotonic() - begun
    assert one.ask("time.monotonic()") - at >= passed
    assert one.tree() == tree
    one.unharmed()


def test_each_cause_of_a_wake(pods: Pods) -> None:
    """A connection, data on one from before, a datagram and an exec would have woken it, each once; then it would sleep again."""
    one = start(pods, sleepers.DATAGRAMS)
    with one.talk() as talk:
        talk.ask("1")
        would_sleep(one)
        talk.ask("1")
        woken(one, "tcp-data")
        would_sleep(one)
        one.ask("1")
        woken(one, "tcp-data", "tcp-connect")
        would_sleep(one)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as plain:
            plain.settimeout(20)
            plain.sendto(b"hello", (one.ip, 9))
            assert plain.recv(100) == b"hello"
        woken(one, "tcp-data", "tcp-connect", "udp")
        would_sleep(one)
        assert one.container.exec(["true"]).code == 0
        woken(one, "tcp-data", "tcp-connect", "udp", "exec")
        would_sleep(one)
    assert one.info()["would_sleeps"] == 5
    assert one.info()["wakes"] == 0
    series = Series(one)
    assert series.value("zeropod_dry_run_scale_downs_total") == 5
    for cause in ("tcp-data", "tcp-connect", "udp", "exec"):
        assert series.value("zeropod_dry_run_would_restores_total", cause=cause) == 1
    one.unharmed()


def test_an_idle_connection_wakes_nobody(pods: Pods) -> None:
    """Open connections without payload neither keep it awake nor would wake it."""
    one = start(pods)
    with one.talk() as talk:
        talk.ask("1")
        would_sleep(one)
        time.sleep(3)
        assert (one.info()["would_sleeps"], wakes(one)) == (1, {})


def test_it_cannot_be_put_to_sleep(pods: Pods) -> None:
    """Not by hand either; the refusal says why."""
    one = start(pods)
    with pytest.raises(TtrpcError, match="dry-run is set"):
        one.sleep()
    one.wake()
    assert one.info()["wakes"] == 0


def test_what_stands_in_the_way_is_said(pods: Pods) -> None:
    """An application that could not be checkpointed would not sleep, with the same reason as without a dry run."""
    folder = "/tmp/..2026_01_01_00_00_00.1"
    one = start(pods, f"os.makedirs('{folder}'); os.chdir('{folder}')")
    reach(one, lambda found: found["reason"])
    found = one.info()
    assert not found["would_sleeps"]
    assert found["kind"] == "unsupported"
    assert "configmap" in one.why()


def test_watch_and_log_tell(pods: Pods, zeropod: Callable[..., cri.Result]) -> None:
    """The log has a line for each decision, and `zeropod list` does not take it for any other container."""
    one = start(pods)
    would_sleep(one)
    one.ask("1")
    woken(one, "tcp-connect")
    log = Path("/var/log/node/daemon.log").read_text(errors="replace")
    assert "container.would_sleep" in log
    assert "container.would_wake" in log
    rows = zeropod("list").out.splitlines()
    row = next(row for row in rows if one.reference.split("/")[1] in row)
    assert "would" in row
