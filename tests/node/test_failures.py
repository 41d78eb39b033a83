"""The failure matrix of docs/failures.md, a line each: the application runs on, or its image is kept.

What kills a process of ours at some moment is in test_crashes.py.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from node import sleepers

from checkpointer import cgroups, manifest, processes, settings
from dev import cri
from ttrpc.errors import TtrpcError

Pods = Callable[..., cri.Pod]

STATE = settings.Settings().state_dir


def restart_daemon() -> None:
    """A planned restart: it is back when this returns."""
    pid = sleepers.service_pid("daemon")
    os.kill(pid, signal.SIGTERM)
    cri.until(lambda: not sleepers.alive(pid), 30)
    sleepers.ready()


@contextlib.contextmanager
def small_disk(at: Path, **options: str) -> Iterator[Path]:
    """Mount a small file system somewhere."""
    words = ",".join(f"{name}={value}" for name, value in {"mode": "700", **options}.items())
    subprocess.run(["mount", "-t", "tmpfs", "-o", words, "small", at], check=True)
    try:
        yield at
    finally:
        # A page daemon may have its last image open for a moment more.
        cri.until(lambda: subprocess.run(["umount", at], check=False).returncode == 0, 30)


@contextlib.contextmanager
def small_state(**options: str) -> Iterator[Path]:
    """While the context lasts the images are on a small file system."""
    with small_disk(STATE, **options) as disk:
        restart_daemon()
        yield disk
    restart_daemon()


@contextlib.contextmanager
def flags(*words: str) -> Iterator[None]:
    """While the context lasts the daemon has these words on its command line."""
    file = Path("/run/node/daemon.flags")
    file.write_text(" ".join(words))
    try:
        restart_daemon()
        yield
    finally:
        file.unlink()
        restart_daemon()


@contextlib.contextmanager
def no_bytes(disk: Path) -> Iterator[None]:
    """Fill a file system to its last block."""
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(1 << 20))
    with ballast.open("ab", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(1 << 12))
    try:
        assert os.statvfs(disk).f_bavail == 0
        yield
    finally:
        ballast.unlink()


@contextlib.contextmanager
def no_inodes(disk: Path) -> Iterator[None]:
    """Take every inode of a file system."""
    ballast = disk / "ballast"
    ballast.mkdir()
    with contextlib.suppress(OSError):
        for number in range(1 << 20):
            (ballast / str(number)).touch()
    try:
        assert os.statvfs(disk).f_favail == 0
        yield
    finally:
        for file in ballast.iterdir():
            file.unlink()
        ballast.rmdir()


@contextlib.contextmanager
def stopped(pids: list[int]) -> Iterator[None]:
    """While the context lasts these processes do not run."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


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
                cri.until(lambda: one.info()["kind"] == "disk-full", 30)
                assert not no_failure(one, 4)
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
                cri.until(lambda: one.info()["kind"] == "image-unwritable", 30)
                assert not no_failure(one, 3)
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


def settle(one: sleepers.Sleeper) -> None:
    """Wait until its last wake is over with all that comes after it."""
    one.reach("RUNNING")
    cri.until(lambda: not one.image().exists(), 30)


def refused(one: sleepers.Sleeper, kind: str) -> str:
    """Try to put it to sleep; the reason why not, which has to be of this kind."""
    with pytest.raises(TtrpcError) as caught:
        one.sleep()
    now = one.info()
    assert (now["state"], now["kind"]) == ("RUNNING", kind), now
    assert now["reason"] in one.why()
    assert one.supervisor() == "run"
    return str(caught.value)


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
    with flags("--image-budget", "48Mi", "--disk-reserve", "1%"):
        first.reach("RUNNING")
        second.reach("RUNNING")
        first.sleep()
        assert "--image-budget" in refused(second, "image-budget")
        first.wake()
        settle(first)
        second.sleep()
        assert second.ask("len(ballast)") == 16 << 20
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


def no_failure(one: sleepers.Sleeper, seconds: float) -> str:
    """Watch a wake that is held for some seconds; what is wrong with it."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        now = one.info()
        if now["state"] != "WAKING" or now["failed_wakes"]:
            return str(now)
        time.sleep(0.1)
    return ""


# --- room -------------------------------------------------------------------------------------------------------------


def memory_limit(one: sleepers.Sleeper) -> Path:
    """The file of a container's memory limit."""
    group = cgroups.of(one.pid).controller("memory")
    assert group is not None
    return next(
        group / name for name in ("memory.limit_in_bytes", "memory.max") if (group / name).exists()
    )


@pytest.mark.parametrize("level", ["container", "pod"])
def test_a_limit_that_leaves_no_room(pods: Pods, level: str) -> None:
    """A wake that does not fit is held, however long, with the limit in `why`, and answered once it fits."""
    one = sleepers.python(pods, "ballast = os.urandom(16 << 20)")
    limit = memory_limit(one)
    if level == "pod":
        limit = limit.parent.parent / limit.name
    with one.talk() as talk:
        talk.ask("memory.update(a=1)")
        one.sleep()
        before = limit.read_text().strip()
        limit.write_text(str(12 << 20))
        try:
            talk.send("memory['a'], len(ballast)")
            cri.until(lambda: one.info()["kind"] == f"no-room-{level}", 30)
            assert not no_failure(one, 3)
            assert str(limit.parent) in one.why()
            one.unharmed()
        finally:
            # Version 1 does not take what it prints when there is none.
            limit.write_text("-1" if before.isdigit() and int(before) >= 1 << 60 else before)
        assert talk.answer() == [1, 16 << 20]
    assert one.reach("RUNNING")["kind"] == ""
    one.unharmed()


def test_a_node_without_memory(pods: Pods) -> None:
    """A wake that the node's memory has no room for is held, and answered by a daemon that keeps less."""
    one = sleepers.python(pods)
    with one.talk() as talk:
        talk.ask("memory.update(a=1)")
        one.sleep()
        with flags("--disk-reserve", "1%", "--memory-reserve", "1Ti"):
            talk.send("memory['a']")
            cri.until(lambda: one.info()["kind"] == "no-room-node", 30)
            assert not no_failure(one, 3)
            assert "--memory-reserve keeps 1Ti" in one.why()
        assert talk.answer() == 1
    one.unharmed()


# --- pids -------------------------------------------------------------------------------------------------------------


def next_pid(one: sleepers.Sleeper, pid: int, then: str) -> subprocess.Popen[bytes]:
    """Let the next process of a container have a pid (kernel.ns_last_pid, sysctl(5)), then run something in a shell."""
    script = f"mount -t proc proc /mnt; echo {pid - 1} >/mnt/sys/kernel/ns_last_pid; {then}"
    inside = ["nsenter", "-t", str(one.pid), "-p", "unshare", "-m", "--propagation", "private"]
    return subprocess.Popen([*inside, "sh", "-c", script])


def own_pid(one: sleepers.Sleeper) -> int:
    """The application's pid in its container."""
    return processes.vpid(one.tree()[0])


def test_a_pid_that_is_taken(pods: Pods) -> None:
    """A process that has a pid of the application's holds the wake, is named in `why`, and costs no image."""
    one = sleepers.python(pods)
    with one.talk() as talk:
        talk.ask("memory.update(a=1)")
        pid = own_pid(one)
        one.sleep()
        with next_pid(one, pid, "sleep 1000") as taker:
            try:
                cri.until(
                    lambda: "sleep" in map(sleepers.comm, sleepers.descendants(taker.pid)), 10
                )
                talk.send("memory['a']")
                cri.until(lambda: one.info()["kind"] == "pid-taken", 30)
                assert not no_failure(one, 3)
                assert f"(sleep) is pid {pid} in the container" in one.why()
            finally:
                for member in sleepers.descendants(taker.pid):
                    os.kill(member, signal.SIGKILL)
        assert talk.answer() == 1
    one.unharmed()


def test_an_exec_that_has_the_applications_pid(pods: Pods) -> None:
    """An exec that waits for the application and has its pid fails, for the wake would wait for it as well."""
    one = sleepers.python(pods)
    with one.talk() as talk:
        talk.ask("memory.update(a=1)")
        pid = own_pid(one)
        for attempt in range(5):
            one.sleep()
            next_pid(one, pid, "true").wait()
            result = one.container.exec(["true"])
            one.reach("RUNNING")
            assert talk.ask("memory['a']") == 1
            if result.code:
                break
            assert attempt < 4, "no exec had the pid"
        assert one.container.exec(["true"]).code == 0
    one.unharmed()


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
        assert file.name in one.why()
        assert (one.image() / "restore.log").stat().st_size == 0
        file.write_bytes(good)
        assert talk.answer() == 1
    one.unharmed()


def test_a_damaged_image_that_stays_so(pods: Pods) -> None:
    """After its last try the container ends with 71, and the image is put aside as it was."""
    one = sleepers.python(pods)
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


# --- versions ---------------------------------------------------------------------------------------------------------

MAPS = Path("/opt/zeropod/lib/python/bpf/maps.h")


@contextlib.contextmanager
def another_layout() -> Iterator[None]:
    """While the context lasts the daemon's maps are others than those of before; then again."""
    good = MAPS.read_text()
    try:
        with sleepers.without_daemon():
            MAPS.write_text(good + "/* another layout */\n")
        yield
    finally:
        with sleepers.without_daemon():
            MAPS.write_text(good)


@pytest.mark.timeout(120)
def test_an_upgrade_with_other_maps(pods: Pods) -> None:
    """A new daemon that reads no map of the old one holds what sleeps by its images: nobody is reset, all wake."""
    one, two, awake = (sleepers.python(pods) for _ in range(3))
    ended = {sleepers.SCALEDOWN: "1h", "zeropod.ctrox.dev/disable-checkpointing": "true"}
    off = sleepers.python(pods, pod=pods(annotations=ended))
    off.sleep()
    with one.talk() as kept, two.talk() as quiet, awake.talk() as busy, socket.socket() as fresh:
        for talk in (kept, quiet, busy):
            talk.ask("memory.update(a=1)")
        one.sleep()
        two.sleep()
        layouts = set(settings.Settings().pin_root.glob("maps-*"))
        fresh.setblocking(False)
        good = MAPS.read_text()
        with another_layout():
            assert not layouts & set(settings.Settings().pin_root.glob("maps-*"))
            assert kept.ask("memory['a']") == 1
            assert busy.ask("memory['a']") == 1
            assert two.reach("ASLEEP")
            assert off.reach("ASLEEP")["mode"] == "off"
            awake.reach("RUNNING")
            awake.sleep()
            with sleepers.without_daemon():
                fresh.connect_ex((two.ip, sleepers.PORT))
                time.sleep(1.2)  # until it has been sent twice
        fresh.settimeout(20)
        fresh.sendall(b"memory['a'] + 1\n")
        assert fresh.recv(99) == b"2\n"
        assert quiet.ask("memory['a']") == 1
        assert busy.ask("memory['a']") == 1
        assert off.state == "ASLEEP"
        assert off.ask("1") == 1
    assert MAPS.read_text() == good
    for each in (one, two, awake, off):
        each.unharmed()
        cri.until(lambda each=each: accept_local(each) == "0", 30)


def accept_local(one: sleepers.Sleeper) -> str:
    """Whether its pod's lo takes frames from itself, as it has to while something sleeps."""
    words = ["nsenter", "-t", str(one.pid), "-n", "sysctl", "-n", "net.ipv4.conf.lo.accept_local"]
    return subprocess.run(words, capture_output=True, check=True, text=True).stdout.strip()


BUNDLE = Path("/opt/zeropod/criu/zygote.so")


def test_an_upgrade_with_another_criu(pods: Pods) -> None:
    """What sleeps is woken by the new criu's zygotes, and those of the old one end when nothing is at work below them."""
    one = sleepers.python(pods)
    with one.talk() as talk:
        talk.ask("memory.update(a=1)")
        one.sleep()
        before = sleepers.helpers()
        good = BUNDLE.read_bytes()
        try:
            replace(BUNDLE, good + b"another build")
            restart_daemon()
            now = sleepers.helpers()
            assert not set(before.values()) & set(now.values())
            cri.until(lambda: not any(map(sleepers.alive, before.values())), 30)
            assert talk.ask("memory['a']") == 1
            one.reach("RUNNING")
            one.sleep()
        finally:
            replace(BUNDLE, good)
            restart_daemon()
        assert talk.ask("memory['a']") == 1
    one.unharmed()


def replace(file: Path, data: bytes) -> None:
    """Replace a file that programs have mapped."""
    fresh = file.with_suffix(".new")
    fresh.write_bytes(data)
    fresh.chmod(0o755)
    fresh.replace(file)
