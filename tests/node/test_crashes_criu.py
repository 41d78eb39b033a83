"""criu, its zygotes and page daemons are killed, and images spoilt, at every moment: nothing that was in memory is lost."""

from __future__ import annotations

import shutil
import socket
import subprocess
import threading
import time
from pathlib import Path
from typing import Self

import pytest
from node import sleepers
from node.crashes import (
    DIGEST,
    FAILED,
    LARGE,
    SLEEP_SPAN,
    STAGING,
    Pods,
    damage,
    in_background,
    kill,
    moments,
)
from node.scrapes import counted

from dev import cri
from ttrpc.errors import TtrpcError


class Strike:
    """While the context lasts the first criu that a zygote starts is killed, `delay` seconds after its start."""

    def __init__(self, delay: float, kind: str = "swrk") -> None:
        self.killed = False
        self._zygote = sleepers.helpers()[kind]
        self._before = set(sleepers.children(self._zygote))
        self._delay = delay
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.join()

    def _fresh(self) -> set[int]:
        return set(sleepers.children(self._zygote)) - self._before

    def _run(self) -> None:
        deadline = time.monotonic() + 5
        while not self._fresh() and time.monotonic() < deadline:
            pass
        time.sleep(self._delay)
        # Not the first one: that may only have been the father of the one that works. Nor its tracer, which is there
        # to outlive it.
        self.killed = sum(kill(pid) for pid in self._fresh() if sleepers.comm(pid) == "criu") > 0


# --- helpers ----------------------------------------------------------------------------------------------------------


@pytest.mark.timeout(180)
def test_criu_killed_in_a_dump(pods: Pods) -> None:
    """Criu killed at twenty points of a dump: open connections and the memory are as if nothing had been.

    Of an event loop. A thread that is blocked in recv gets EPERM (tcp_recvmsg of a socket in repair mode): the kernel
    lets it go on in the very moment in which criu ends.
    """
    killed = 0
    delays = list(moments(20, 0.028))
    # Five points each: what a dead criu leaves open in the application may make its later dumps fail early.
    for few in (delays[0::4], delays[1::4], delays[2::4], delays[3::4]):
        one = sleepers.redis(pods)
        with socket.create_connection((one.ip, 6379), timeout=20) as kept:
            for delay in few:
                kept.sendall(f"SET n {delay!r}\r\n".encode())
                assert kept.recv(999) == b"+OK\r\n"
                with Strike(delay) as strike:
                    attempt = in_background(one.sleep)
                attempt.join(60)
                killed += strike.killed
                kept.sendall(b"GET n\r\n")
                assert kept.recv(999).endswith(f"\r\n{delay!r}\r\n".encode()), delay
                one.reach("RUNNING")
                assert one.supervisor() == "run"
        one.unharmed()
    assert killed >= 4


@pytest.mark.timeout(120)
def test_criu_killed_under_a_blocked_thread(pods: Pods) -> None:
    """Criu killed in a dump while a thread waits in recv: the wait goes on, though the socket was in repair mode."""
    for _ in range(3):
        one = sleepers.python(pods)
        with one.talk() as talk:
            for number, delay in enumerate(moments(4, 0.028)):
                with Strike(delay):
                    attempt = in_background(one.sleep)
                attempt.join(60)
                assert talk.ask(f"memory.update(n={number}) or memory['n']") == number, delay
                one.reach("RUNNING")
        one.unharmed()


#: Hears datagrams, which nobody sends a second time.
HEARING = """
heard = []
def hear():
    sock = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    sock.bind(("::", 7))
    print("hearing", flush=True)
    while True:
        heard.append(sock.recv(99).decode())
threading.Thread(target=hear, daemon=True).start()
"""


@pytest.mark.timeout(180)
def test_criu_killed_while_clients_wait(pods: Pods) -> None:
    """What comes during a dump whose criu is killed is held until then and delivered: datagrams, data, a new connection."""
    one = sleepers.python(pods, HEARING)
    cri.until(lambda: "hearing" in one.container.logs(), 30)
    killed = 0
    with one.talk() as kept, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams:
        datagrams.connect((one.ip, sleepers.PORT))
        for number, delay in enumerate(moments(12, 0.028)):
            with Strike(delay) as strike:
                attempt = in_background(one.sleep)
                while one.supervisor() != "armed" and attempt.is_alive():
                    time.sleep(1e-4)
                datagrams.send(str(number).encode())
                kept.send(f"memory.update(n={number}) or memory['n']")
                with one.talk() as fresh:
                    assert fresh.ask("40 + 2") == 42, delay
            attempt.join(60)
            killed += strike.killed
            assert kept.answer() == number, delay
            one.reach("RUNNING")
            cri.until(lambda: len(one.ask("heard")) > number, 30)  # noqa: B023
        assert one.ask("heard") == [str(number) for number in range(12)]
    one.unharmed()
    assert killed


@pytest.mark.timeout(180)
def test_criu_killed_in_a_restore(pods: Pods) -> None:
    """Criu killed at ten points of a restore: the request that woke the container is answered all the same."""
    one = sleepers.python(pods)
    killed = 0
    with one.talk() as talk:
        for number, delay in enumerate(moments(10, 0.025)):
            talk.ask(f"memory.update(n={number})")
            one.reach("RUNNING")
            one.sleep()
            with Strike(delay) as strike:
                talk.send("memory['n']")
            killed += strike.killed
            assert talk.answer() == number, delay
            one.reach("RUNNING")
            one.unharmed()
        assert killed >= 2


@pytest.mark.timeout(120)
def test_page_daemon_killed(pods: Pods) -> None:
    """A page daemon that is killed in mid-drain leaves no zeros behind: the application has all of its memory."""
    one = sleepers.python(pods, LARGE)
    digest = one.ask(DIGEST)
    killed = 0
    for delay in moments(12, 0.1):
        one.sleep()
        lazy = sleepers.helpers()["lazy"]
        with one.talk() as talk:
            talk.ask("1")
            time.sleep(delay)
            killed += sum(
                kill(pid) for pid in sleepers.descendants(lazy) if not sleepers.children(pid)
            )
        # A client is answered before its wake is over, and only then there is a drain to be waited for.
        one.reach("RUNNING")
        cri.until(lambda: not one.info()["draining"], 30)
        assert one.ask(DIGEST, timeout=40) == digest, delay
        if killed >= 2:  # a drain takes a tenth of a second, and has to be caught
            break
    assert killed
    counted(one, "zeropod_wake_failures_total", reason="page-daemon")
    one.unharmed()


@pytest.mark.timeout(120)
def test_page_daemon_killed_when_something_was_said(pods: Pods) -> None:
    """A client that has heard of what is lost then is reset, not left waiting; one that was silent since goes on."""
    one = sleepers.python(pods, LARGE)
    for delay in moments(12, 0.1):
        with one.talk() as talk, one.talk() as silent:
            silent.ask("1")
            talk.ask("memory.update(n=0)")
            one.sleep()
            lazy = sleepers.helpers()["lazy"]
            talk.ask("memory.update(n=1)")
            time.sleep(delay)
            for pid in sleepers.descendants(lazy):
                if not sleepers.children(pid):
                    kill(pid)
            one.reach("RUNNING")
            cri.until(lambda: not one.info()["draining"], 30)
            lost = silent.ask("memory['n']") == 0
            if lost:
                with pytest.raises(ConnectionError):
                    talk.ask("1")
                break
            assert talk.ask("memory['n']") == 1
    else:
        raise AssertionError("no drain was caught")
    assert one.ask("memory['n']") == 0
    one.unharmed()


@pytest.mark.parametrize("state", ["awake", "asleep"])
def test_zygotes_killed(pods: Pods, state: str) -> None:
    """With both zygotes killed the next sleep or wake starts new ones and works."""
    one = sleepers.python(pods)
    one.ask("memory.update(a=1)")
    if state == "asleep":
        one.sleep()
    before = sleepers.helpers()
    for pid in before.values():
        kill(pid)
    cri.until(lambda: not any(sleepers.alive(pid) for pid in before.values()), 30)
    if state == "awake":
        one.sleep()
    assert one.ask("memory['a']") == 1
    one.reach("RUNNING")
    one.sleep()
    assert one.ask("memory['a']") == 1
    assert sleepers.helpers()["swrk"] != before["swrk"]
    one.unharmed()


# --- failures ---------------------------------------------------------------------------------------------------------


@pytest.mark.timeout(120)
def test_a_request_at_any_moment_of_a_dump(pods: Pods) -> None:
    """A request that comes while the container falls asleep is answered, whether the sleep is called off or not."""
    one = sleepers.python(pods)
    off = 0
    with one.talk() as talk:
        for number, delay in enumerate(moments(20, SLEEP_SPAN)):
            before = one.info()["sleeps"]
            attempt = in_background(one.sleep)
            time.sleep(delay)
            assert talk.ask(f"memory.update(n={number}) or memory['n']") == number, delay
            attempt.join(60)
            one.wake()
            off += one.info()["sleeps"] == before
    assert off
    assert one.info()["failed_sleeps"] == 0
    one.unharmed()


@pytest.mark.parametrize("fault", ["another file system", "a full disk"])
def test_an_image_that_cannot_be_written(pods: Pods, fault: str) -> None:
    """When the image cannot be written or committed the application runs on, `why` says so, and the next sleep works."""
    log = Path("/var/log/node/daemon.log")
    mark = log.stat().st_size
    one = sleepers.python(pods, "ballast = os.urandom(8 << 20)")
    with one.talk() as talk:
        talk.ask("memory.update(a=1)")
        size = "256m" if fault == "another file system" else "1m"
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={size},mode=700", "tmpfs", STAGING], check=True
        )
        try:
            for _ in range(3):
                with pytest.raises(TtrpcError):
                    one.sleep()
                assert talk.ask("memory['a']") == 1
                assert one.ask("len(ballast)") == 8 << 20
            assert one.state == "RUNNING"
            assert one.supervisor() == "run"
            assert one.info()["failed_sleeps"] == 3
            assert "did not work" in one.why()
            assert "FAILED" not in one.why()  # which is all that criu's last line says
            said = [
                line
                for line in log.read_bytes()[mark:].decode().splitlines()
                if "sleep.failed" in line
            ]
            assert len(said) == 3
            telling = "action scripts" if fault == "another file system" else "page-xfer"
            assert all(telling in line.partition("criu=")[2] for line in said)
        finally:
            subprocess.run(["umount", STAGING], check=True)
        one.sleep()
        assert talk.ask("memory['a']") == 1
    assert one.info()["failed_sleeps"] == 0
    one.unharmed()


@pytest.mark.timeout(120)
def test_a_restore_that_fails_is_tried_again(pods: Pods) -> None:
    """A damaged image is kept and tried again; once it is good again the waiting request is answered."""
    one = sleepers.python(pods)
    with one.talk() as talk:
        talk.ask("memory.update(a=1)")
        one.sleep()
        repair = damage(one)
        talk.send("memory['a']")
        cri.until(lambda: one.info()["failed_wakes"] >= 2, 30)
        assert one.state == "WAKING"
        assert "tried again" in one.why()
        one.unharmed()
        assert one.image().exists()
        repair()
        assert talk.answer() == 1
    assert one.reach("RUNNING")["failed_wakes"] == 0
    one.unharmed()


@pytest.mark.timeout(120)
def test_a_restore_that_never_works(pods: Pods) -> None:
    """After five restores that failed the container ends with 71, the reason is logged, and the image is kept."""
    log = Path("/var/log/node/daemon.log")
    mark = log.stat().st_size
    one = sleepers.python(pods)
    one.sleep()
    damage(one)
    attempt = in_background(lambda: one.ask("1"))
    assert one.container.wait("exited", 60).exit_code == 71
    attempt.join(30)
    [kept] = FAILED.glob(one.container.id + "~*")
    assert (kept / "inventory.img").exists()
    said = [
        line
        for line in log.read_bytes()[mark:].decode().splitlines()
        if "container.failed" in line
    ]
    assert len(said) == 1
    assert one.reference.rpartition("/")[0] in said[0]
    assert "reason=" in said[0]
    shutil.rmtree(kept)
