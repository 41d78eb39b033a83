"""The failure matrix of docs/failures.md, of disks: the application runs on, or its image is kept."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from node import sleepers
from node.faults import (
    STATE,
    Pods,
    flags,
    held,
    no_bytes,
    no_inodes,
    refused,
    settle,
    small_disk,
    small_state,
    stopped,
)

from dev import cri

# --- the disk of the images -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("exhausted", [no_bytes, no_inodes])
@pytest.mark.parametrize("size", [1, 64])
def test_a_wake_needs_no_space(
    pods: Pods, exhausted: Callable[[Path], contextlib.AbstractContextManager[None]], size: int
) -> None:
    """With the disk of the images full to the last block or inode a sleeping container wakes, large ones eagerly."""
    with small_state(size="256m", nr_inodes="1000") as disk:
        one = sleepers.python(pods, f"ballast = os.urandom({size} << 20)")
        with one.talk() as talk:
            talk.ask("memory.update(a=1)")
            one.sleep()
            with exhausted(disk):
                assert talk.ask("memory['a'], len(ballast)") == [1, size << 20]
                assert one.reach("RUNNING")["failed_wakes"] == 0
            one.sleep()
            assert talk.ask("memory['a']") == 1
        settle(one)
        one.unharmed()


@pytest.mark.timeout(120)
def test_the_disk_fills_up_while_pages_come_in(pods: Pods) -> None:
    """Pages that are still being loaded when the disk gets full all come, and nothing since the wake is undone."""
    with small_state(size="400m") as disk:
        one = sleepers.python(pods, "ballast = os.urandom(300 << 20)")
        digest = one.ask("hash(ballast)")
        for number in range(10):  # it takes a tenth of a second, and has to be caught
            one.sleep()
            with one.talk() as talk, contextlib.ExitStack() as stack:
                talk.send(f"memory.update(since={number}) or 1")
                one.reach("RUNNING")
                with stopped(sleepers.descendants(sleepers.helpers()["lazy"])):
                    draining = one.info()["draining"]
                    if draining:
                        stack.enter_context(no_bytes(disk))
                assert talk.answer() == 1
                cri.until(lambda: not one.info()["draining"], 30)
                assert talk.ask("memory['since'], hash(ballast)") == [number, digest]
            if draining:
                break
        else:
            pytest.fail("no drain was met")
        one.unharmed()


def test_the_containers_disk_is_full_at_the_wake(pods: Pods, tmp_path: Path) -> None:
    """A wake that finds no room for a deleted file of the application is held, however long, and works once there is."""
    with small_disk(tmp_path, size="1m"):
        setup = "f = open('/data/f', 'w+'); f.write('x' * 65536); f.flush(); os.unlink('/data/f')"
        mount = {"container_path": "/data", "host_path": str(tmp_path)}
        one = sleepers.python(pods, setup, mounts=[mount])
        with one.talk() as talk:
            one.sleep()
            with no_bytes(tmp_path):
                talk.send("f.seek(0), len(f.read())")
                held(one, "disk-full", 4)
                assert one.state == "WAKING"
                assert "free space" in one.why()
            assert talk.answer() == [0, 65536]
        one.unharmed()
        one.container.pod.remove()


def test_a_disk_that_is_read_only(pods: Pods) -> None:
    """A wake is held: whether an image was used has to be noted, or it could be restored twice. A sleep fails."""
    with small_state(size="64m") as disk:
        one = sleepers.python(pods)
        with one.talk() as talk:
            talk.ask("memory.update(a=1)")
            one.sleep()
            subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
            try:
                talk.send("memory['a']")
                held(one, "image-unwritable")
                assert "Read-only file system" in one.why()
            finally:
                subprocess.run(["mount", "-o", "remount,rw", disk], check=True)
            assert talk.answer() == 1
            one.reach("RUNNING")
            subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
            try:
                refused(one, "image-unwritable")
                assert talk.ask("memory['a']") == 1
            finally:
                subprocess.run(["mount", "-o", "remount,rw", disk], check=True)
        one.unharmed()


def test_a_disk_that_gets_low(pods: Pods) -> None:
    """A sleep that would take the disk's reserve is refused before anything is touched; with room again it works."""
    with small_state(size="64m") as disk:
        one = sleepers.python(pods, "ballast = os.urandom(40 << 20)")
        with one.talk() as talk:
            talk.ask("memory.update(a=1)")
            (disk / "ballast").write_bytes(bytes(30 << 20))
            assert "--disk-reserve" in refused(one, "disk-low")
            assert one.info()["sleep_ms"] == 0
            (disk / "ballast").unlink()
            one.sleep()
            assert talk.ask("memory['a'], len(ballast)") == [1, 40 << 20]
        settle(one)
        one.unharmed()


def test_a_disk_that_is_short_of_inodes(pods: Pods) -> None:
    """A sleep that would take the last inodes is refused."""
    with small_state(nr_inodes="60"):
        one = sleepers.python(pods)
        assert "--inode-reserve" in refused(one, "inodes-low")
        one.unharmed()


DELETED = """
files = [open(f'/dev/shm/{n}', 'wb') for n in range(8)]
for f in files:
    f.write(bytes(4 << 20))
    f.flush()
    os.unlink(f.name)
"""
"""Deleted files that are open become part of an image, and are in no process's memory."""


def test_an_image_that_turns_out_larger(pods: Pods) -> None:
    """What an estimate did not see is refused when the image is there: the application runs on, and no image is left."""
    with small_state(size="64m"), flags("--disk-reserve", "70%"):
        one = sleepers.python(pods, DELETED)
        with one.talk() as talk:
            talk.ask("memory.update(a=1)")
            refused(one, "disk-low")
            assert not one.image().exists()
            assert not list((STATE / "staging").iterdir())
            assert talk.ask("memory['a'], [f.tell() for f in files]") == [1, [4 << 20] * 8]
        one.unharmed()


@pytest.mark.annotation("max-image-size")
def test_an_image_that_is_too_large_for_its_owner(pods: Pods) -> None:
    """An application that has more memory than its pod allows for an image stays awake, and `why` names the annotation."""
    pod = pods(
        annotations={
            sleepers.SCALEDOWN: "1h",
            "zeropod.ctrox.dev/max-image-size": "24Mi",
        }
    )
    one = sleepers.python(pods, pod=pod)
    with one.talk() as talk:
        one.sleep()
        assert talk.ask("memory.update(ballast=os.urandom(20 << 20))") is None
        assert "max-image-size allows 24Mi" in refused(one, "image-size")
        assert talk.ask("memory.clear()") is None
    one.unharmed()


def test_the_nodes_budget_for_images(pods: Pods) -> None:
    """One more image than the node allows is refused; when another is gone there is room for it."""
    first, second = (sleepers.python(pods, "ballast = os.urandom(16 << 20)") for _ in range(2))
    # On a disk of its own: what earlier tests have left for a look would count.
    with small_state(size="256m"), flags("--image-budget", "48Mi", "--disk-reserve", "1%"):
        first.reach("RUNNING")
        second.reach("RUNNING")
        first.sleep()
        assert "--image-budget" in refused(second, "image-budget")
        first.wake()
        settle(first)
        second.sleep()
        assert second.ask("len(ballast)") == 16 << 20
        settle(second)
    first.unharmed()
    second.unharmed()


def test_a_disk_that_is_full(pods: Pods) -> None:
    """A dump that fills the disk fails, the application runs on with its connections, and `why` says what was full."""
    with small_state(size="32m"):
        one = sleepers.python(pods, DELETED)
        with one.talk() as talk:
            talk.ask("memory.update(a=1)")
            for _ in range(2):
                refused(one, "disk-full")
            assert "No space left" in one.why()
            assert talk.ask("memory['a'], [f.tell() for f in files]") == [1, [4 << 20] * 8]
            assert not list((STATE / "staging").iterdir())
        one.unharmed()
