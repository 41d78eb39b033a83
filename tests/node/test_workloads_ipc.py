"""Unix sockets, System V objects and naps of applications, over a sleep."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from node import sleepers
from node.volumes import OLD, WATCH, atomic_writer, volume

from dev import cri
from ttrpc.errors import TtrpcError

Pods = Callable[..., cri.Pod]


def test_its_unix_sockets_wake_nobody(pods: Pods, tmp_path: Path) -> None:
    """Asleep it is as if nobody listened on a socket on a volume; awake it is the same socket again."""
    setup = "it = socket.socket(socket.AF_UNIX); it.bind('/vol/socket'); it.listen()"
    one = sleepers.python(pods, setup, mounts=[volume(tmp_path)])
    one.sleep()
    with socket.socket(socket.AF_UNIX) as client:
        with pytest.raises(ConnectionRefusedError):
            client.connect(str(tmp_path / "socket"))
        assert one.state == "ASLEEP"
        one.ask("1")
        client.connect(str(tmp_path / "socket"))
        assert one.ask("it.accept()[0].send(b'hello')") == 5
        assert client.recv(9) == b"hello"
    one.unharmed()


def test_a_syslog_daemon_in_the_pod(pods: Pods, tmp_path: Path) -> None:
    """A connection to /dev/log of another container of the pod goes on after a sleep, without a new connect."""
    pod = pods(annotations={sleepers.SCALEDOWN: "1h"})
    mounts = [volume(tmp_path, "/run/log")]
    listen = "log = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM); log.bind('/run/log/log'); log.settimeout(20)"
    daemon = sleepers.python(pods, listen, pod=pod, port=8000, name="syslog", mounts=mounts)
    connect = "log = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM); log.connect('/run/log/log')"
    one = sleepers.python(pods, connect, pod=pod, mounts=mounts)
    for number in range(2):
        one.sleep()
        assert one.ask(f"log.send(b'line {number}')") == 6
        with sleepers.Talk(pod.ip, port=8000) as talk:
            assert talk.ask("log.recv(99).decode()") == f"line {number}"
    daemon.unharmed()


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        pytest.param("SOCK_DGRAM", "syslog daemon in the same pod", id="the-nodes-syslog"),
        pytest.param("SOCK_STREAM", "sleeps when that connection is closed", id="stream"),
        pytest.param("SOCK_SEQPACKET", "sleeps when that connection is closed", id="not-accepted"),
    ],
)
def test_unix_sockets_to_the_node(pods: Pods, tmp_path: Path, kind: str, told: str) -> None:
    """A connection to a program outside of the pod keeps awake; the reason names the socket."""
    sort = getattr(socket, kind)
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(socket.socket(socket.AF_UNIX, sort))
        server.bind(str(tmp_path / "socket"))
        if sort != socket.SOCK_DGRAM:
            server.listen()
        setup = f"it = socket.socket(socket.AF_UNIX, socket.{kind}); it.connect('/vol/socket')"
        one = sleepers.python(pods, setup, mounts=[volume(tmp_path)])
        if sort == socket.SOCK_STREAM:
            stack.enter_context(server.accept()[0])
        with pytest.raises(TtrpcError, match=told):
            one.sleep()
        assert str(tmp_path / "socket") in one.why()
        one.ask("it.close()")
        one.sleep()
        assert one.ask("1") == 1


# --- System V ---------------------------------------------------------------------------------------------------------


def test_system_v_objects(pods: Pods) -> None:
    """Shared memory, attached and not, semaphores and message queues are there with their contents, over two sleeps."""
    setup = """
libc = ctypes.CDLL(None)
libc.shmat.restype = ctypes.c_void_p
def put(key):
    address = libc.shmat(libc.shmget(key, 4096, 0o1600), None, 0)
    ctypes.memmove(address, b"shared", 6)
    return ctypes.c_void_p(address)
class Message(ctypes.Structure):
    _fields_ = [("kind", ctypes.c_long), ("text", ctypes.c_char * 8)]
def received():
    message = Message()
    libc.msgrcv(libc.msgget(3, 0o600), ctypes.byref(message), 8, 0, 0o4000)
    libc.msgsnd(libc.msgget(3, 0o600), ctypes.byref(message), 8, 0)
    return message.text.decode()
attached = put(1)
libc.shmdt(put(2))
libc.semctl(libc.semget(4, 1, 0o1600), 0, 16, 7)  # SETVAL
libc.msgsnd(libc.msgget(3, 0o1600), ctypes.byref(Message(1, b"queued")), 8, 0)
def seen():
    return [
        ctypes.string_at(attached.value, 6).decode(),
        ctypes.string_at(libc.shmat(libc.shmget(2, 4096, 0o600), None, 0), 6).decode(),
        libc.semctl(libc.semget(4, 1, 0o600), 0, 12),  # GETVAL
        received(),
    ]
"""
    one = sleepers.python(pods, setup)
    for _ in range(2):
        one.sleep()
        assert one.ask("seen()") == ["shared", "shared", 7, "queued"]
    one.unharmed()


# --- system calls -----------------------------------------------------------------------------------------------------


def test_who_naps_naps_on(pods: Pods, tmp_path: Path) -> None:
    """nanosleep(2) is not cut short by a sleep, nor by one that is called off with everything frozen."""
    atomic_writer(tmp_path, OLD, "old")
    setup = f"""{WATCH}
class Time(ctypes.Structure):
    _fields_ = [("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long)]
naps = []
def nap():
    wanted, left, before = Time(4, 0), Time(), time.monotonic()
    result = libc.clock_nanosleep(0, 0, ctypes.byref(wanted), ctypes.byref(left))
    naps.append([result, round(time.monotonic() - before)])
thread = threading.Thread(target=nap)
thread.start()
it = watch('/vol/key')
other = subprocess.Popen(["busybox", "sleep", "1000"])
"""
    one = sleepers.python(pods, setup, mounts=[volume(tmp_path)])
    with pytest.raises(TtrpcError, match="kubelet replaces"):
        one.sleep()
    one.ask("os.close(it)")
    for _ in range(2):
        one.sleep()
        assert one.ask("other.poll()") is None
    assert one.ask("thread.join(10) or naps") == [[0, 4]]
