"""What the kubelet is told of a daemon that works, and of one that could wake nobody."""

from __future__ import annotations

import os
import signal
import subprocess
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from node import sleepers

from dev import cri, patience

URL = "http://127.0.0.1:9419"
IMAGES = Path("/var/lib/zeropod/images")
INIT = Path("/opt/zeropod/container/init")


def asked(path: str) -> tuple[int, str]:
    """Status and text."""
    try:
        with urllib.request.urlopen(URL + path, timeout=20) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


@pytest.fixture(autouse=True)
def well_afterwards() -> Iterator[None]:
    """Whatever a test has broken is mended."""
    patience.until(lambda: asked("/readyz")[0] == 200, 30)
    yield
    patience.until(lambda: asked("/readyz")[0] == 200, 30)


def test_a_daemon_that_works_says_so() -> None:
    """With what was looked at."""
    _, text = asked("/readyz")
    for name in ("event-loop", "exec-watch", "adoption", "zygotes", "images", "datapath"):
        assert f"[+]{name} ok\n" in text
    assert asked("/healthz")[0] == 200


def test_images_that_cannot_be_written_are_told(pods: Callable[..., cri.Pod]) -> None:
    """No wake is possible; a new daemon would mend nothing. Afterwards what sleeps can be woken."""
    one = sleepers.python(pods)
    one.sleep()
    subprocess.run(["mount", "--bind", IMAGES, IMAGES], check=True)
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", IMAGES], check=True)
        status, text = asked("/readyz")
        alive, _ = asked("/healthz")
    finally:
        subprocess.run(["umount", "--lazy", IMAGES], check=True)

    assert status == 503
    assert "[-]images failed: " in text
    assert "Read-only file system" in text
    assert alive == 200
    assert one.ask("1 + 1") == 2


def test_a_missing_supervisor_is_told() -> None:
    """No container could be started; the remedy is in the answer."""
    away = INIT.with_name("init.away")
    INIT.rename(away)
    try:
        status, text = asked("/readyz")
    finally:
        away.rename(INIT)

    assert status == 503
    assert "run the installer again" in text


def test_a_zygote_that_ended_is_started_again(zeropod: Any) -> None:
    """By the question; the next wake need not wait for it."""
    before = helpers(zeropod)
    for pid in before.values():
        os.kill(pid, signal.SIGKILL)
    # One that was killed may take a moment to end, and is well until then.
    patience.until(lambda: asked("/readyz")[0] == 200 and replaced(before, helpers(zeropod)), 30)


def replaced(before: dict[str, int], now: dict[str, int]) -> bool:
    """Whether all of them are others."""
    return set(now) == set(before) and not set(now.values()) & set(before.values())


def helpers(zeropod: Any) -> dict[str, int]:
    """Pids of the zygotes, by kind."""
    lines = zeropod("status").out.splitlines()
    told = (line.removeprefix("helper ").split(": pid ") for line in lines if ": pid " in line)
    return {name: int(pid) for name, pid in told if name in {"swrk", "lazy"}}
