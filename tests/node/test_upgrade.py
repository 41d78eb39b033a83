"""Upgrades, with pods in every state: between two builds, that of some commits ago and this one; of the maps; of criu."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from node import sleepers
from node.faults import Pods, restart_daemon
from node.plugins import Plugin
from node.sleepers import Sleeper

from checkpointer import settings
from dev import cri

ZEROPOD = Path("/opt/zeropod")
EARLIER, CODE = ZEROPOD / "earlier", ZEROPOD / "lib/python"
PROGRAMS = {
    "zeropod-init": ZEROPOD / "container/init",
    "zygote.so": ZEROPOD / "criu/zygote.so",
}

REFUSED = "os.makedirs('/tmp/..2026_01_01_00_00_00.1'); os.chdir('/tmp/..2026_01_01_00_00_00.1')"
"""What makes a checkpoint impossible."""


@dataclass(frozen=True)
class Build:
    """What a version consists of."""

    code: Path
    programs: Path

    def install(self) -> None:
        """Put it where services and new containers find it; what runs keeps what it has."""
        fresh = CODE.with_name("python.new")
        shutil.copytree(self.code, fresh)
        shutil.rmtree(CODE)
        fresh.rename(CODE)
        for name, place in PROGRAMS.items():
            shutil.copy2(self.programs / name, place.with_suffix(".new"))
            place.with_suffix(".new").rename(place)


@pytest.fixture
def present(tmp_path: Path) -> Iterator[Build]:
    """The build under test, which is there again afterwards."""
    own = Build(tmp_path / "present", tmp_path / "programs")
    shutil.copytree(CODE, own.code)
    own.programs.mkdir()
    for name, place in PROGRAMS.items():
        shutil.copy2(place, own.programs / name)
    yield own
    own.install()


@pytest.fixture
def earlier(tmp_path: Path) -> Build:
    """One of some commits ago, compiled here."""
    if not EARLIER.is_dir():
        pytest.skip("there is no earlier build: git, or the history, is not there")
    code = tmp_path / "earlier"
    for package in CODE.iterdir():
        source = EARLIER / package.name
        shutil.copytree(source if source.is_dir() else package, code / package.name)
    folder = tmp_path / "supervisor"
    shutil.copytree(EARLIER / "supervisor", folder)
    words = ["make", "-s", "-C", folder, *(f"build/{name}" for name in PROGRAMS)]
    subprocess.run(words, check=True)
    return Build(code, folder / "build")


@contextlib.contextmanager
def stopped(plugin: Plugin, how: signal.Signals) -> Iterator[None]:
    """While the context lasts neither plugin nor daemon runs."""
    hold = Path("/run/node/hold/daemon")
    pid = sleepers.service_pid("daemon")
    hold.touch()
    os.kill(pid, how)
    cri.until(lambda: not sleepers.alive(pid), 60)
    plugin.away()
    yield
    hold.unlink()
    plugin.back()
    sleepers.ready()


@pytest.mark.timeout(240)
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL], ids=["stopped", "killed"])
def test_nobody_notices_an_upgrade(
    pods: Pods, plugin: Plugin, present: Build, earlier: Build, how: signal.Signals
) -> None:
    """What sleeps in an image, is off, is frozen or runs answers the next build, with the memory and connections it had."""
    with stopped(plugin, signal.SIGTERM):
        earlier.install()
    ways = {
        "image": {},
        "off": {"zeropod.ctrox.dev/disable-checkpointing": "true"},
        "frozen": {"zeropod.ctrox.dev/on-failure": "freeze"},
        "awake": {},
    }
    them: dict[str, Sleeper] = {
        way: sleepers.python(
            pods,
            REFUSED if way == "frozen" else "",
            pod=pods(annotations={sleepers.SCALEDOWN: "1h", **annotations}),
        )
        for way, annotations in ways.items()
    }
    with contextlib.ExitStack() as stack:
        kept = {way: stack.enter_context(one.talk()) for way, one in them.items() if way != "off"}
        for talk in kept.values():
            talk.ask("memory.update(a=1)")
        states = {way: them[way].sleep()["state"] for way in ("image", "off", "frozen")}
        assert states == {"image": "ASLEEP", "off": "ASLEEP", "frozen": "FROZEN"}
        with stopped(plugin, how):
            present.install()
            kept["image"].send("memory['a'] + 1")
        assert kept["image"].answer() == 2
        # Builds of before noted its ports in the pinned maps only: if these are others now, it was started at once.
        assert them["off"].reach("ASLEEP", "RUNNING")["failed_wakes"] == 0
        assert them["off"].ask("memory") == {}
        for way in ("frozen", "awake"):
            assert kept[way].ask("memory['a']") == 1
        for one in them.values():
            one.reach("RUNNING")
            # The supervisor is the earlier build's still.
            assert one.sleep()["state"] in {"ASLEEP", "FROZEN"}
        for talk in kept.values():
            assert talk.ask("memory['a']") == 1
        assert them["off"].ask("1") == 1
    for one in them.values():
        one.unharmed()


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
