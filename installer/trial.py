"""One checkpoint and one restore of a process of ours, on this very node, with the criu that is to be used there."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from installer.errors import InstallError

SECONDS = 60.0
"""For each step; a node that boots is busy."""

TRIES = 3
"""A process is restored with its old pid, which somebody else may have by then."""

REMEDY = "run with the capabilities of the manifests, on a kernel that docs/install.md names"

CACHE = Path("/run/criu.kdat")
"""What criu found out about the kernel. It leaves that behind, and nobody but this trial uses it."""


def run(bundle: Path) -> float:
    """Freeze and thaw a process; return the seconds it took.

    Raises:
        InstallError: it did not work.
    """
    for missing in (name for name in ("criu", "ld.so") if not (bundle / name).exists()):
        raise InstallError(f"{bundle} has no {missing}", "use the image as it was built")
    known = CACHE.exists()
    try:
        for last in (*[False] * (TRIES - 1), True):
            try:
                return _once(bundle)
            except InstallError:
                if last:
                    raise
        raise AssertionError
    except (OSError, subprocess.TimeoutExpired) as error:
        raise InstallError(f"criu could not be tried: {error}", REMEDY) from error
    finally:
        if not known:
            with contextlib.suppress(OSError):
                CACHE.unlink()


def _once(bundle: Path) -> float:
    with tempfile.TemporaryDirectory(prefix="zeropod-check-") as scratch, _sleeper() as child:
        started = time.monotonic()
        _criu(bundle, scratch, "dump", "--tree", str(child.pid))
        child.wait(SECONDS)  # as a zombie it would keep the pid
        pidfile = Path(scratch) / "pid"
        _criu(bundle, scratch, "restore", "--restore-detached", "--pidfile", str(pidfile))
        with _ended(int(pidfile.read_text())) as pid:
            if not _alive(pid):
                raise InstallError("criu restored a process that does not run", "report this")
            return time.monotonic() - started


@contextlib.contextmanager
def _sleeper() -> Iterator[subprocess.Popen[bytes]]:
    """A process with a session of its own and nothing open, which says when it has come to rest. It is ended afterwards."""
    program = "import os, signal; os.write(1, b'.'); os.close(1); signal.pause()"
    with subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", program],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        cwd="/",
        env={},
    ) as child:
        try:
            if child.stdout is None or child.stdout.read() != b".":  # until it has closed its end
                raise InstallError("a process could not be started", "look at the node's limits")
            yield child
        finally:
            child.kill()  # does nothing to one that was waited for, whosever the pid is by now


@contextlib.contextmanager
def _ended(pid: int) -> Iterator[int]:
    """End a restored process afterwards, and see it gone: it is a child of init's, or of whoever takes orphans in."""
    descriptor = os.pidfd_open(pid)
    try:
        yield pid
    finally:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(descriptor, signal.SIGKILL)
        os.close(descriptor)
        with contextlib.suppress(ChildProcessError):  # we are init in our container
            os.waitpid(pid, 0)
        _until(lambda: not _alive(pid))


def _alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in "ZX"


def _until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SECONDS
    while not true():
        if time.monotonic() > deadline:
            raise InstallError("a killed process did not end", "look at the load of the node")
        time.sleep(0.01)


def _criu(bundle: Path, scratch: str, *words: str) -> None:
    log = Path(scratch) / f"{words[0]}.log"
    argv = [
        str(bundle / "ld.so"), "--inhibit-cache", "--library-path", str(bundle / "lib"), str(bundle / "criu"),
        "--no-default-config", *words, "-D", scratch, "-o", str(log), "-v2", "--manage-cgroups=ignore",
    ]  # fmt: skip
    try:
        result = subprocess.run(
            argv, capture_output=True, text=True, timeout=SECONDS, check=False, env={}
        )
    except subprocess.TimeoutExpired as error:
        raise InstallError(
            f"criu {words[0]} did not end within {SECONDS:.0f} s",
            "look at the load of the node; report this with the kernel's version if it is idle",
        ) from error
    if result.returncode:
        lines = log.read_text().splitlines() if log.exists() else [result.stderr.strip()]
        told = [line for line in lines if "Error" in line] or lines
        raise InstallError(
            f"criu {words[0]} failed: {told[-1] if told else 'without a word'}", REMEDY
        )
