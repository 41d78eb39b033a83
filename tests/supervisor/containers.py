"""Small containers for the supervisor: real namespaces, a real PID 1, no container runtime."""

from __future__ import annotations

import ctypes
import os
import select
import shlex
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest

FREEZE, END, ARM, ASLEEP, RESUME, FAIL, START, HURRY = range(57, 65)

# What images name as StopSignal.
STOPS = [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGWINCH]

# Runs as the first process of a new pid namespace and ends as the container's PID 1. The root is assembled on a tmpfs:
# the node's programs, everything else empty. It is the root of the mount namespace: who joins that, as criu does, sees what
# the container sees.
ASSEMBLE = """
set -e
root=$1; own=$2; prefix=$3; shift 3
mount -t tmpfs -o mode=755 container "$root"
cd "$root"
mkdir usr proc dev tmp run etc .zeropod
mount --rbind /usr usr
for link in bin sbin lib lib64; do [ ! -h /$link ] || cp -P /$link .; done
case $prefix in /usr) ;; *) mkdir -p ".$prefix"; mount --bind "$prefix" ".$prefix" ;; esac
mount --rbind /dev dev
mount --bind "$own" .zeropod
mount -o remount,bind,ro,nosuid,nodev .zeropod
mount -t proc proc proc
pivot_root . .
umount -l .
cd /
"""


def until(condition: Callable[[], object], seconds: float = 20) -> None:
    """Waits for a condition; fails with its name when it does not come."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"did not happen within {seconds} s: {condition}")
        time.sleep(0.002)


class Container:
    """A running container: its PID 1 is the supervisor, or was to become it."""

    def __init__(
        self,
        root: Path,
        own: Path,
        argv: Sequence[str],
        before: str,
        through: Sequence[str],
        **popen: Any,
    ) -> None:
        """Starts `through... /.zeropod/init argv...` in new namespaces after the shell lines of `before`."""
        script = f'{ASSEMBLE}\n{before}\nexec {shlex.join(through)} /.zeropod/init "$@"'
        self.wake = own / "wake"
        self._out = b""
        streams = {
            "stdout": subprocess.PIPE,
            "stderr": subprocess.PIPE,
            "stdin": subprocess.DEVNULL,
        }
        command = ["unshare", "-m", "-p", "-n", "--fork", "--kill-child", "sh", "-c", script, "sh"]
        self.process = subprocess.Popen(
            [*command, root, own, sys.base_prefix, *argv], **{**streams, **popen}
        )

    @cached_property
    def pid(self) -> int:
        """The supervisor's pid on the node."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        until(lambda: children.read_text().strip())
        return int(children.read_text().split()[0])

    @property
    def state(self) -> str:
        """What the supervisor publishes, "" once it has ended."""
        try:
            return Path(f"/proc/{self.pid}/comm").read_text().strip().removeprefix("zeropod:")
        except OSError:
            return ""

    @property
    def children(self) -> list[int]:
        """The supervisor's children, the application first."""
        pid = self.pid
        return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]

    def reach(self, state: str) -> None:
        """Waits for a state."""
        until(lambda: self.state == state)

    def order(self, signo: int, state: str) -> None:
        """Gives an order from outside and waits until it is obeyed."""
        os.kill(self.pid, signo)
        self.reach(state)

    def line(self, seconds: float = 10) -> str:
        """The next line of the application's output."""
        assert self.process.stdout is not None
        deadline = time.monotonic() + seconds
        while b"\n" not in self._out:
            ready, _, _ = select.select(
                [self.process.stdout], [], [], max(0, deadline - time.monotonic())
            )
            data = os.read(self.process.stdout.fileno(), 65536) if ready else b""
            if not data:
                pytest.fail(
                    f"no line: {'end of output' if ready else 'nothing came'}, so far {self._out!r}"
                )
            self._out += data
        line, _, self._out = self._out.partition(b"\n")
        return line.decode()

    def end(self, seconds: float = 10) -> int:
        """Waits for the container's end and returns its exit status."""
        return self.process.wait(seconds)

    def said(self) -> str:
        """What was written to stderr, after the end."""
        assert self.process.stderr is not None
        return self.process.stderr.read().decode()

    def close(self) -> None:
        """Ends the container whatever it does."""
        if self.process.poll() is None:
            self.process.kill()  # --kill-child: takes PID 1 along
            self.process.wait()
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            if stream is not None:
                stream.close()


def python(code: str) -> tuple[str, ...]:
    """The argv of a Python program."""
    lines = code.strip("\n").splitlines()
    indent = len(lines[0]) - len(lines[0].lstrip())
    return (
        os.path.realpath(sys.executable),
        "-I",
        "-S",
        "-u",
        "-c",
        "\n".join(x[indent:] for x in lines),
    )


# An application that waits for signals and prints the number of each, with its value if it was queued with one.
LISTENER = """
    import signal
    everything = signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}
    signal.pthread_sigmask(signal.SIG_BLOCK, everything)
    print("ready")
    while True:
        got = signal.sigwaitinfo(everything)
        print(int(got.si_signo))
"""


def _fanotify(flags: int, opened: int) -> int:
    """fanotify_init(2)."""
    fd = int(ctypes.CDLL(None, use_errno=True).fanotify_init(flags, opened))
    if fd < 0:
        raise OSError(ctypes.get_errno(), "fanotify_init")
    return fd


def _mark(fd: int, flags: int, what: int, path: Path) -> None:
    """fanotify_mark(2)."""
    mark = ctypes.CDLL(None, use_errno=True).fanotify_mark
    mark.argtypes = [ctypes.c_int, ctypes.c_uint, ctypes.c_uint64, ctypes.c_int, ctypes.c_char_p]
    if mark(fd, flags, what, -100, bytes(path)) < 0:  # AT_FDCWD
        raise OSError(ctypes.get_errno(), "fanotify_mark", str(path))


class Gate:
    """A fanotify permission mark on one file: whoever opens it waits for our answer."""

    OPEN, EXECUTE = 0x10000, 0x40000  # FAN_OPEN_PERM, FAN_OPEN_EXEC_PERM (linux/fanotify.h)
    ALLOW, DENY = 1, 2

    def __init__(self, path: Path, what: int) -> None:
        """Marks the file, wherever it is mounted."""
        self._fd = _fanotify(
            0x4 | 0x1 | 0x2, os.O_RDONLY | os.O_CLOEXEC
        )  # CONTENT, CLOEXEC, NONBLOCK
        _mark(self._fd, 0x1, what, path)  # ADD

    def wait(self, seconds: float) -> list[int]:
        """The descriptors of the opens that wait, [] when none came in time."""
        if not select.select([self._fd], [], [], seconds)[0]:
            return []
        data = os.read(self._fd, 4096)
        return [event[5] for event in struct.iter_unpack("=IBBHQii", data)]

    def answer(self, event: int, answer: int) -> None:
        """Lets one open go on, or refuses it."""
        os.write(self._fd, struct.pack("=iI", event, answer))
        os.close(event)

    def expect(self, answer: int, seconds: float = 5) -> None:
        """Waits for an open and answers it."""
        events = self.wait(seconds)
        if not events:
            pytest.fail("nobody opened the file")
        for event in events:
            self.answer(event, answer)

    def close(self) -> None:
        """Lets everybody through."""
        os.close(self._fd)


class Opens:
    """Records every open of a file in one file system, whichever mount it goes through."""

    def __init__(self, path: Path) -> None:
        """Watches the file system of a path, directories included."""
        self._fd = _fanotify(
            0x1 | 0x2, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
        )  # CLOEXEC, NONBLOCK
        _mark(self._fd, 0x101, 0x20 | 0x40000000, path)  # ADD, FILESYSTEM; OPEN, ONDIR

    def seen(self) -> list[str]:
        """The paths that were opened since, as their file system has them."""
        paths = []
        while select.select([self._fd], [], [], 0)[0]:
            data = os.read(self._fd, 4096)
            for event in struct.iter_unpack("=IBBHQii", data):
                paths.append(os.readlink(f"/proc/self/fd/{event[5]}"))
                os.close(event[5])
        return paths

    def close(self) -> None:
        """Stops watching."""
        os.close(self._fd)


def put_to_sleep(one: Container) -> None:
    """What the daemon and criu do, without an image."""
    one.order(ARM, "armed")
    os.kill(one.children[0], signal.SIGKILL)
    one.order(ASLEEP, "asleep")
