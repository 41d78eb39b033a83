"""What is read of processes, from processes of the test's own."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from checkpointer import descriptors, refusals, rescue
from checkpointer.descriptors import Process, Watch
from redirector import unix


@contextlib.contextmanager
def running(script: str) -> Iterator[Process]:
    """A Python program that has set itself up, as it is read."""
    pipe = subprocess.PIPE
    words = [sys.executable, "-c", f"{script}\nprint(flush=True)\nimport sys; sys.stdin.read()"]
    with subprocess.Popen(words, stdin=pipe, stdout=pipe) as process:
        assert process.stdout is not None
        process.stdout.readline()
        (found,) = descriptors.read([process.pid], os.getpid())
        yield found
        process.communicate()


def test_files_are_read_with_what_decides_about_them(tmp_path: Path) -> None:
    """Kind, names left, size and mount of each; devices by their number."""
    path = tmp_path / "file"
    script = (
        f"import os; a = open({str(path)!r}, 'w'); a.write('12345'); a.flush(); os.unlink(a.name)"
    )
    with running(f"{script}; b = open('/dev/full')") as found:
        around = descriptors.Surroundings(descriptors.mounts(found.pid), unix.here())
        by_path = {file.path: file for file in found.files}
    gone = by_path[f"{path} (deleted)"]
    assert (stat.S_ISREG(gone.mode), gone.links, gone.size) == (True, 0, 5)
    assert by_path["/dev/full"].rdev == os.makedev(1, 7)
    assert gone.mount in around.mounts
    assert refusals.reason([found], around) == ""


def test_sockets_are_read_with_what_decides_about_them() -> None:
    """Family, type and protocol; of a Unix socket, whom it is connected to."""
    script = """
import socket
tcp = socket.create_server(("127.0.0.1", 0))
udp = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
server = socket.socket(socket.AF_UNIX)
server.bind("\\0%d" % id(server))
server.listen()
client = socket.socket(socket.AF_UNIX)
client.connect(server.getsockname())
"""
    with running(script) as found:
        kinds = {(sock.family, sock.kind, sock.proto) for sock in found.sockets}
        (peer,) = {sock.peer for sock in found.sockets if sock.peer}
    assert (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP) in kinds
    assert (socket.AF_INET6, socket.SOCK_DGRAM, socket.IPPROTO_UDP) in kinds
    assert peer.startswith("@")


def test_a_connection_to_somebody_outside_is_seen() -> None:
    """The kernel tells the inode of the other end, and that is not one of the tree's."""
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(f"\0zeropod-{os.getpid()}")
        server.listen()
        name = server.getsockname().decode()
        with running(
            f"import socket; a = socket.socket(socket.AF_UNIX); a.connect({name!r})"
        ) as found:
            accepted, _ = server.accept()
            with accepted:
                said = refusals.reason([found], descriptors.Surroundings(unix=unix.here()))
    assert name.replace("\0", "@") in said


def test_watches_are_read(tmp_path: Path) -> None:
    """By device and inode, as stat(2) numbers them."""
    script = (
        "import ctypes; c = ctypes.CDLL(None); "
        f"c.inotify_add_watch(c.inotify_init1(0), {bytes(tmp_path)!r}, 2)"
    )
    with running(script) as found:
        status = tmp_path.stat()
        assert [watch.inode for watch in found.watches] == [status.st_ino]
        # On some file systems (btrfs) stat shows another device for each subvolume.
        assert isinstance(found.watches[0], Watch)


def test_events_that_nobody_has_read_are_counted(tmp_path: Path) -> None:
    """Struct inotify_event is 16 bytes, and a name is padded to 16."""
    script = (
        "import ctypes; c = ctypes.CDLL(None); "
        f"c.inotify_add_watch(c.inotify_init1(0), {bytes(tmp_path)!r}, 0x100)"
    )
    with running(script) as found:
        assert found.unread == descriptors.unread(found.pid) == 0
        (tmp_path / "new").touch()
        assert descriptors.unread(found.pid) == 32


def test_pidfds_are_read() -> None:
    """A descriptor of a process names it, and that of one that has ended nobody."""
    script = f"import os; a = os.pidfd_open({os.getpid()}); b = os.pidfd_open(os.getpid())"
    with running(script) as found:
        assert sorted(found.pidfds) == sorted([os.getpid(), found.pid])


def test_names_of_processes_and_files_need_not_be_text(tmp_path: Path) -> None:
    """A thread's name may be cut in the middle of a character; all that looks at it has to bear that."""
    folder = tmp_path / "\f"  # for str.splitlines the end of a line, for the kernel not
    folder.mkdir()
    script = f"""
import mmap, os, pathlib, sys
pathlib.Path("/proc/self/comm").write_bytes(b"\\xc3\\fPid:")
file = open({bytes(folder)!r} + b"/\\xff", "w+b")
file.write(b"x")
file.flush()
mapped = mmap.mmap(file.fileno(), 0)
"""
    with running(script) as found:
        survey = rescue.survey([found.pid])
        rescued = rescue.after_dump(found.pid)
    assert refusals.reason([found]) == ""
    assert survey is rescue.Survey.ALL
    assert rescued.healthy
