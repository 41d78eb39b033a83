"""The failure matrix of docs/failures.md, of images: each is used once, whole and by who can read it, or kept."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from node import sleepers
from node.faults import STATE, Pods, restart_daemon
from node.scrapes import counted, scrape

from checkpointer import manifest
from dev import cri

# --- the image --------------------------------------------------------------------------------------------------------


def flipped(data: bytes) -> bytes:
    """One bit in the middle is another."""
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


def truncated(data: bytes) -> bytes:
    """The last byte is missing."""
    return data[:-1]


@pytest.mark.parametrize(
    ("pattern", "spoil"),
    [
        ("core-*.img", flipped),
        ("files.img", flipped),
        ("pagemap-*.img", flipped),
        ("inventory.img", truncated),
        ("pages-*.img", truncated),
    ],
)
def test_a_damaged_image(pods: Pods, pattern: str, spoil: Callable[[bytes], bytes]) -> None:
    """Is not given to criu but kept and tried again; what is wrong with it is said, and it wakes when it is whole again."""
    one = sleepers.python(pods)
    with one.talk() as talk:
        talk.ask("memory.update(a=1)")
        one.sleep()
        [file] = sorted(one.image().glob(pattern))[:1]
        good = file.read_bytes()
        file.write_bytes(spoil(good))
        talk.send("memory['a']")
        cri.until(lambda: one.info()["failed_wakes"] >= 2, 30)
        assert one.info()["kind"] == "image-corrupt"
        counted(one, "zeropod_wake_failures_total", reason="image-corrupt")
        assert file.name in one.why()
        assert (one.image() / "restore.log").stat().st_size == 0
        file.write_bytes(good)
        assert talk.answer() == 1
    one.unharmed()


def test_a_damaged_image_that_stays_so(pods: Pods) -> None:
    """After its last try the container ends with 71, and the image is put aside as it was."""
    one = sleepers.python(pods)
    given_up = ("zeropod_given_up_total", frozenset({("reason", "image-corrupt")}))
    before = scrape().get(given_up, 0)
    with one.talk() as talk:
        one.sleep()
        [file] = sorted(one.image().glob("pages-*.img"))
        with file.open("r+b") as pages:
            pages.truncate(4096)
        talk.send("1")
        assert one.container.wait("exited", 60).exit_code == 71
    [kept] = (STATE / "failed").glob(one.container.id + "~*")
    assert (kept / file.name).stat().st_size == 4096
    assert "image-corrupt" in daemon_log("container.gone")
    assert scrape()[given_up] == before + 1
    shutil.rmtree(kept)


def test_an_image_that_is_removed(pods: Pods) -> None:
    """There is nothing to wake from: the container ends with 71, and the reason says that somebody has removed it."""
    one = sleepers.python(pods)
    with one.talk() as talk:
        one.sleep()
        shutil.rmtree(one.image())
        talk.send("1")
        assert one.container.wait("exited", 60).exit_code == 71
    assert "kind=image-missing" in daemon_log("container.gone")


def daemon_log(event: str) -> str:
    """The last line that tells of an event."""
    lines = Path("/var/log/node/daemon.log").read_text().splitlines()
    return next(line for line in reversed(lines) if event in line)


@contextlib.contextmanager
def as_written_by(one: sleepers.Sleeper, change: Callable[[bytes], bytes]) -> Iterator[None]:
    """Let the next daemon find another manifest; it is the old one again when the context ends."""
    file = one.image() / manifest.NAME
    good = file.read_bytes()
    with sleepers.without_daemon():
        file.write_bytes(change(good))
    yield
    if file.exists():
        with sleepers.without_daemon():
            file.write_bytes(good)


def of_the_first_version(data: bytes) -> bytes:
    """A manifest before there were digests."""
    plain = json.loads(data.partition(b"\n")[2])
    del plain["files"]
    return json.dumps({**plain, "version": 1}, indent=1).encode()


def test_an_image_of_the_first_version(pods: Pods) -> None:
    """A container that slept through an upgrade from the first version on wakes, with fences as they were then."""
    one = sleepers.python(pods)
    with one.talk() as talk:
        talk.ask("memory.update(a=1)")
        one.sleep()
        (one.image() / "fence").unlink()
        with as_written_by(one, of_the_first_version):
            assert one.reach("ASLEEP")["kind"] == ""
            assert talk.ask("memory['a']") == 1
    one.unharmed()


def test_an_image_of_a_later_version(pods: Pods) -> None:
    """A daemon that was rolled back lets the container sleep, says why, and its successor wakes it."""
    one = sleepers.python(pods)

    def later(data: bytes) -> bytes:
        return data.replace(b'"version": 2', b'"version": 99', 1)

    with one.talk() as talk:
        talk.ask("memory.update(a=1)")
        one.sleep()
        with as_written_by(one, later):
            cri.until(lambda: "format 99" in one.why(), 30)
            assert "install that version again" in one.why()
            talk.send("memory['a']")
            time.sleep(6)  # longer than until the next try to take it over
            assert one.supervisor() == "asleep"
            assert one.state == "UNMANAGED"
            assert talk.quiet()
        assert talk.answer() == 1
    one.unharmed()


def test_an_image_of_a_later_version_whose_pod_ends(pods: Pods) -> None:
    """It is removed with its container, although nobody could read it."""
    one = sleepers.python(pods)
    one.sleep()
    with as_written_by(one, lambda data: data.replace(b'"version": 2', b'"version": 99', 1)):
        cri.until(lambda: "format 99" in one.why(), 30)
        assert one.container.stop(20).exit_code == 0
        cri.until(lambda: not one.image().exists(), 30)


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        ({"kernel": "6.0.0-other"}, "image-foreign"),
        ({"container_id": "another"}, "image-foreign"),
        ({"tasks": "many"}, "image-corrupt"),
    ],
)
def test_an_image_of_another_world(pods: Pods, change: dict[str, str], kind: str) -> None:
    """What a daemon finds instead of the image it can use ends the container with 71, and is put aside for a look."""
    one = sleepers.python(pods)
    one.sleep()

    def other(data: bytes) -> bytes:
        if kind == "image-corrupt":
            return data.replace(b'"tasks"', b'"taskz"')
        return dataclasses.replace(manifest.Manifest.decode(data), **change).encode()

    with as_written_by(one, other):
        assert one.container.wait("exited", 60).exit_code == 71
        assert f"kind={kind}" in daemon_log("container.gone")
        [kept] = (STATE / "failed").glob(one.container.id + "~*")
        assert list(kept.glob("pages-*.img"))
        shutil.rmtree(kept)


def test_an_image_of_another_boot(pods: Pods) -> None:
    """Nobody can be left to wake from it: it goes when the daemon starts."""
    one = sleepers.python(pods)
    one.sleep()
    old = STATE / "images" / "before-the-boot"
    shutil.copytree(one.image(), old)
    found = manifest.Manifest.decode((old / manifest.NAME).read_bytes())
    other = dataclasses.replace(found, container_id=old.name, boot_id="another")
    (old / manifest.NAME).write_bytes(other.encode())
    restart_daemon()
    assert not old.exists()
    assert one.ask("1") == 1
    one.unharmed()


def test_an_image_of_another_criu(pods: Pods) -> None:
    """A later criu restores what an earlier one has written."""
    one = sleepers.python(pods)
    one.ask("memory.update(a=1)")
    one.sleep()

    def other(data: bytes) -> bytes:
        return dataclasses.replace(manifest.Manifest.decode(data), criu="4.1").encode()

    with as_written_by(one, other):
        assert one.ask("memory['a']") == 1
    one.unharmed()


@pytest.mark.parametrize("days", [-1, 1])
def test_a_clock_that_is_set(pods: Pods, days: int) -> None:
    """Images are told apart by boot and container, never by time: one from yesterday or tomorrow wakes as any other."""
    one = sleepers.python(pods)
    one.ask("memory.update(a=1)")
    one.sleep()

    def other(data: bytes) -> bytes:
        found = manifest.Manifest.decode(data)
        return dataclasses.replace(found, created=found.created + days * 86400).encode()

    with as_written_by(one, other):
        os.utime(one.image(), (time.time() + days * 86400,) * 2)
        one.reach("ASLEEP")
        assert one.ask("memory['a']") == 1
        one.reach("RUNNING")
        one.sleep()
        assert one.ask("memory['a']") == 1
    one.unharmed()


# --- never twice ------------------------------------------------------------------------------------------------------


def test_an_image_that_a_dead_daemon_had_begun_to_restore(pods: Pods) -> None:
    """Nothing of it has run: it is restored again, with all of its memory."""
    one = sleepers.python(pods)
    one.ask("memory.update(a=1)")
    one.sleep()
    with sleepers.without_daemon():
        (one.image() / "fence").chmod(0o400)
    one.reach("RUNNING")
    assert one.ask("memory['a']") == 1
    one.unharmed()


def test_an_image_that_a_dead_daemon_had_used(pods: Pods) -> None:
    """The application has run from it and is gone: what it did since must not be undone, so the container ends."""
    one = sleepers.python(pods)
    one.sleep()
    with sleepers.without_daemon():
        (one.image() / "fence").chmod(0o000)
    assert one.container.wait("exited", 30).exit_code == 71
    cri.until(lambda: not one.image().exists(), 30)
