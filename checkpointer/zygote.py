"""Zygotes: criu linked once on the host, then one fork per dump or restore.

A zygote belongs to the node, not to this daemon: it runs in its own session and cgroup, and a later daemon finds it by
the path of its socket, which names kind and version. Nothing is linked, looked up or executed inside a container.
This module is the only one of the daemon that starts programs.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import hashlib
import json
import logging
import os
import resource
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from checkpointer import cgroups, criu, manifest, processes
from checkpointer.errors import CriuError, ZygoteError
from checkpointer.worker import Kind, Zygote, connect

_log = logging.getLogger(__name__)

_ZYGOTE_FD = 200  # where a zygote finds its listening socket; far from what criu and we use
_CAP_SYS_RESOURCE = 24  # linux/capability.h
_CHECK_SECONDS = 30.0
_SELF_TEST_SECONDS = 5.0


@dataclasses.dataclass(frozen=True, slots=True)
class Bundle:
    """criu with its libraries and its loader, relocatable, and our fork server.

    Attributes:
        path: The directory.
        digest: Names its contents.
        version: criu's version.
    """

    path: Path
    digest: str
    version: str

    @classmethod
    def at(cls, path: Path) -> Bundle:
        """Look at a bundle.

        Raises:
            ZygoteError: it is not complete, or its criu does not run.
        """
        try:
            digest = hashlib.sha256()
            for name in ("criu", "ld.so", "zygote.so"):
                digest.update(hashlib.sha256((path / name).read_bytes()).digest())
            argv = [*_loader(path), str(path / "criu"), "--version"]
            said = subprocess.run(
                argv, env={}, capture_output=True, text=True, timeout=_CHECK_SECONDS, check=True
            )
        except (OSError, subprocess.SubprocessError) as error:
            raise ZygoteError(f"the criu bundle in {path} does not work: {error}") from error
        version = said.stdout.partition(":")[2].split()
        return cls(path, digest.hexdigest()[:8], version[0] if version else "unknown")

    def command(self, *args: str, zygote: bool = True) -> list[str]:
        """Return the command line that runs criu without looking at anything outside of the bundle."""
        preload = ["--preload", str(self.path / "zygote.so")] if zygote else []
        return [
            *_loader(self.path),
            *preload,
            str(self.path / "criu"),
            "--no-default-config",
            *args,
        ]


def _loader(path: Path) -> list[str]:
    return [str(path / "ld.so"), "--inhibit-cache", "--library-path", str(path / "lib")]


class Zygotes:
    """Both zygotes of a node, started when they are missing.

    Attributes:
        bundle: What they run.
    """

    def __init__(self, bundle: Bundle, run_dir: Path, slice_: cgroups.Slice) -> None:
        self.bundle = bundle
        self._directory = run_dir / "zygote"
        self._slice = slice_
        self._found: dict[Kind, Zygote] = {}
        self._tracks: bool | None = None

    @property
    def swrk(self) -> Zygote:
        """The one for dumps and restores."""
        return self._zygote(Kind.SWRK)

    @property
    def lazy(self) -> Zygote:
        """The one for page daemons."""
        return self._zygote(Kind.LAZY)

    def ensure(self) -> None:
        """Start or find both, and prove that their children look at nothing in a container's /run.

        Raises:
            ZygoteError: one does not work.
        """
        for kind in Kind:
            self._zygote(kind)

    def _zygote(self, kind: Kind) -> Zygote:
        found = self._found.get(kind)
        if found is None or not processes.alive(found.pid):
            if found is not None:
                with contextlib.suppress(ChildProcessError):  # an earlier daemon's
                    os.waitpid(found.pid, os.WNOHANG)
            with self._locked():
                found = self._find(kind) or self._start(kind)
            self._found[kind] = found
        return found

    def running(self, supervisor_pid: int) -> list[int]:
        """Return the pids of criu workers at work in a container, whichever daemon asked for them."""
        inside = processes.ns_inode(supervisor_pid, "pid")
        found = []
        for zygote in self._alive():
            for pid in processes.children(zygote):
                with contextlib.suppress(
                    ProcessLookupError, PermissionError
                ):  # a zombie has no namespaces
                    if processes.ns_inode(pid, "pid") == inside:
                        found.append(pid)
        return found

    def tracks_memory(self) -> bool:
        """Say whether the kernel can tell which memory has changed since it was asked before."""
        if self._tracks is None:
            self._tracks = _tracks_memory(self.swrk, self._directory)
        return self._tracks

    def retire(self) -> list[int]:
        """End the zygotes of other bundles that nothing is at work below; return their pids."""
        ended = []
        for note in self._directory.glob("*.json"):
            if note.stem.endswith(f"-{self.bundle.digest}"):
                continue
            pid = _noted(note)
            if pid is not None:
                with contextlib.suppress(ProcessLookupError):
                    if processes.children(pid):
                        continue  # a drain, or a dump that a dead daemon began; the next daemon ends it
                    os.kill(pid, signal.SIGTERM)
                    ended.append(pid)
            for left in self._directory.glob(f"{note.stem}.*"):
                left.unlink(missing_ok=True)
        return ended

    def pids(self) -> dict[str, int]:
        """Return the pids of the zygotes in use, by kind."""
        return {kind.value: zygote.pid for kind, zygote in self._found.items()}

    def _alive(self) -> list[int]:
        """Return all swrk zygotes, those of other versions too."""
        notes = self._directory.glob(f"{Kind.SWRK.value}-*.json")
        return [pid for pid in map(_noted, notes) if pid is not None]

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        with (self._directory / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _path(self, kind: Kind, suffix: str) -> Path:
        return self._directory / f"{kind.value}-{self.bundle.digest}.{suffix}"

    def _find(self, kind: Kind) -> Zygote | None:
        pid = _noted(self._path(kind, "json"))
        if pid is None or self._path(kind, "untried").exists():
            return None
        try:
            connect(self._path(kind, "sock")).close()
        except OSError:
            return None
        return Zygote(kind, self._path(kind, "sock"), pid)

    def _start(self, kind: Kind) -> Zygote:
        kdat = self._kdat()
        path, untried = self._path(kind, "sock"), self._path(kind, "untried")
        self._end_untried(kind)
        path.unlink(missing_ok=True)
        untried.touch()
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
            listener.bind(str(path))
            path.chmod(0o600)
            listener.listen(64)
            pid = self._spawn(kind, listener.fileno(), kdat)
        zygote = Zygote(kind, path, pid)
        try:
            # Before anything that takes time: nobody would ever end it if we were killed meanwhile.
            note = {"pid": pid, "started": processes.start_time(pid)}
            self._path(kind, "json").write_text(json.dumps(note))
            self._slice.adopt(pid)
            if kind is Kind.SWRK:
                _self_test(zygote, self._directory)
        except BaseException:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            raise
        untried.unlink()
        _log.info(
            "zygote.started",
            extra={"kind": kind.value, "pid": pid, "criu": self.bundle.version},
        )
        return zygote

    def _end_untried(self, kind: Kind) -> None:
        """End the zygote that a daemon was about to try when it was killed."""
        pid = _noted(self._path(kind, "json"))
        if pid is not None and self._path(kind, "untried").exists():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def _spawn(self, kind: Kind, listener: int, kdat: Path) -> int:
        # criu loads plugins and looks for programs when it is in the container already. The one directory of the host
        # that it sees there, and must see, is the image's, in which nothing but its own images is.
        environment = {
            "PATH": criu.IMAGES,
            "CRIU_LIBS_DIR": criu.IMAGES,
            "CRIU_ZYGOTE_FD": str(_ZYGOTE_FD),
            "CRIU_KDAT": str(kdat),
        }
        if kind is Kind.LAZY:
            environment["CRIU_ZYGOTE_GUARD"] = "1"
        log = self._path(kind, "log")
        actions = [
            (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, str(log), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600),
            (os.POSIX_SPAWN_DUP2, 1, 2),
            (os.POSIX_SPAWN_DUP2, listener, _ZYGOTE_FD),
        ]
        argv = self.bundle.command(*_ARGUMENTS[kind])
        # Not subprocess: the zygote outlives us and must not be anybody's pending child object.
        pid = os.posix_spawn(argv[0], argv, environment, file_actions=actions, setsid=True)
        try:
            Path(f"/proc/{pid}/oom_score_adj").write_text("-1000")
        except PermissionError:  # without CAP_SYS_RESOURCE
            _log.warning(
                "zygote.not_protected",
                extra={
                    "kind": kind.value,
                    "reason": "lowering oom_score_adj needs CAP_SYS_RESOURCE",
                },
            )
        return pid

    def _kdat(self) -> Path:
        """Return the file with criu's view of the kernel, made once per boot, kernel and criu."""
        files = _open_files()
        key = f"{manifest.boot_id()} {manifest.kernel()} {self.bundle.digest} {files}"
        path = self._directory / f"kdat-{hashlib.sha256(key.encode()).hexdigest()[:16]}"
        if not path.exists():
            data = _probe(self.bundle, files)
            draft = path.with_suffix(".draft")
            draft.write_bytes(data)
            draft.rename(path)
        return path


# criu resets nothing that its command line set when it serves a request, so what the RPC lacks goes here: comparing
# sizes instead of parsing every mapped ELF file for a build id is faster and reads less of what a container controls.
_ARGUMENTS = {
    Kind.SWRK: ("--file-validation", "filesize", "swrk", "3"),
    Kind.LAZY: ("lazy-pages", "-D", criu.IMAGES, "-W", criu.IMAGES, "-o", "lazy.log", "-v1"),
}

# `criu check` leaves its cache in /run, if that is a tmpfs; it needs a loopback interface that is up.
_PROBE = """
ip link set lo up
mount -t tmpfs -o mode=700 tmpfs /run
if [ "$1" -gt 0 ]; then echo "$1" >/run/files; mount --bind /run/files /proc/sys/fs/nr_open; fi
shift
"$@" >&2 || true
cat /run/criu.kdat
"""
# A criu that looks for its cache here blocks for ever. nsenter leaves a chroot that we may live in: setns does so, too.
_TRAP = "mount -t proc proc /proc; mount -t tmpfs -o mode=700 tmpfs /run; mkfifo /run/criu.kdat; echo ready; exec cat"


def _open_files() -> int:
    """Return the most open files that criu may have, 0 if it can help itself to fs.nr_open.

    It insists on that many (criu/util.c: rlimit_unlimit_nofile), which takes CAP_SYS_RESOURCE. Where that is missing
    the cache says that the kernel's limit is ours.
    """
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    fields = (line.split() for line in Path("/proc/self/status").read_text().splitlines())
    effective = next(int(field[1], 16) for field in fields if field[0] == "CapEff:")
    if effective & 1 << _CAP_SYS_RESOURCE or most >= int(Path("/proc/sys/fs/nr_open").read_text()):
        return 0
    return most


def _probe(bundle: Bundle, files: int) -> bytes:
    argv = [
        "unshare",
        "--mount",
        "--net",
        "--propagation",
        "private",
        "sh",
        "-ec",
        _PROBE,
        "sh",
        str(files),
    ]
    argv += bundle.command("check", zygote=False)
    try:
        done = subprocess.run(argv, capture_output=True, timeout=_CHECK_SECONDS, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        said = getattr(error, "stderr", None) or b""
        lines = said.decode(errors="replace").strip().splitlines()
        message = f"criu check failed: {lines[-1] if lines else error}"
        raise ZygoteError(message) from error
    return done.stdout


def _noted(note: Path) -> int | None:
    """Return the pid in a zygote's note if that very process is alive."""
    try:
        found = json.loads(note.read_text())
        return int(found["pid"]) if processes.alive(found["pid"], found["started"]) else None
    except (OSError, ValueError, KeyError):
        return None


def _self_test(zygote: Zygote, scratch: Path) -> None:
    """Let a worker start inside a mount namespace whose /run/criu.kdat is a FIFO.

    Raises:
        ZygoteError: it touched something there, or did not work at all.
    """
    argv = ["unshare", "--mount", "--propagation", "private"]
    argv += ["nsenter", "--mount=/proc/self/ns/mnt", "sh", "-ec", _TRAP]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as trap:
        try:
            if trap.stdout is None or trap.stdout.readline() != b"ready\n":
                raise ZygoteError("the zygote's self-test cannot make a mount namespace")
            _spring(zygote, trap.pid, scratch)
            left = [entry.name for entry in Path(f"/proc/{trap.pid}/root/run").iterdir()]
            if left != ["criu.kdat"]:
                raise ZygoteError(
                    f"the zygote's self-test: criu wrote to the container's /run: {left}"
                )
        finally:
            trap.kill()


def _spring(zygote: Zygote, trap: int, scratch: Path) -> None:
    _asked(zygote, scratch, criu.check_request(), mount_namespace=trap)


def _tracks_memory(zygote: Zygote, scratch: Path) -> bool:
    answer = _asked(zygote, scratch, criu.features_request())
    return bool(answer.features.mem_track)


def _asked(
    zygote: Zygote, scratch: Path, request: Any, *, mount_namespace: int | None = None
) -> Any:
    """Ask a criu that is in no container, but perhaps in a mount namespace."""
    directory = scratch / "self-test"
    directory.mkdir(exist_ok=True)
    image = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with zygote.worker(image, mount_namespace=mount_namespace) as worker:
            if worker.channel is None:
                raise ZygoteError("the zygote's self-test has no channel")
            session = criu.Session(
                worker.channel, worker.pidfd, time.monotonic() + _SELF_TEST_SECONDS
            )
            try:
                return session.call(request, _agree)
            except CriuError as error:
                worker.kill()
                raise ZygoteError(f"the zygote's self-test failed: {error}") from error
    finally:
        os.close(image)


def _agree(_: str) -> bool:
    return True
