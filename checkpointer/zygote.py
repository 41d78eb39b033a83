"""Zygotes: criu linked once on the host, then one fork per dump or restore.

A zygote belongs to the node, not to this daemon: it runs in its own session and cgroup, and a later daemon finds it by
the path of its socket, which names kind and version. Nothing is linked, looked up or executed inside a container.
This module is the only one of the daemon that starts programs.
"""

from __future__ import annotations

import contextlib
import dataclasses
import enum
import fcntl
import hashlib
import json
import logging
import os
import resource
import select
import signal
import socket
import struct
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Self

from checkpointer import cgroups, criu, manifest, processes
from checkpointer.errors import CriuError, ZygoteError

_log = logging.getLogger(__name__)

_NAMESPACES = ("cgroup", "ipc", "uts", "net", "pid")  # entered in this order, mnt last
_ZYGOTE_FD = 200  # where a zygote finds its listening socket; far from what criu and we use
_REPLY_SECONDS = 10.0  # a fork and some setns; a busy node needs patience
_REPLY = struct.Struct("<Bii")  # status, errno, pid
_GUARDIAN = struct.Struct("<i")
_CAP_SYS_RESOURCE = 24  # linux/capability.h
_CHECK_SECONDS = 30.0
_SELF_TEST_SECONDS = 5.0


class Kind(enum.Enum):
    """What a zygote's children do."""

    SWRK = "swrk"  # one dump or restore
    LAZY = "lazy"  # one page daemon


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


@dataclasses.dataclass(slots=True)
class Worker:
    """A criu process; close it when done with it. Closing does not end the process.

    Attributes:
        channel: Its rpc socket, None for a page daemon.
        pid: Host pid.
        pidfd: Readable when it has exited, which is later than its last answer.
        guardian: Connection to the process that watches a page daemon.
        guardian_pid: That process, 0 if there is none.
    """

    channel: socket.socket | None
    pid: int
    pidfd: int
    guardian: socket.socket | None = None
    guardian_pid: int = 0

    def wait(self, timeout: float) -> bool:
        """Wait for its end; False when the time is up."""
        poll = select.poll()
        poll.register(self.pidfd, select.POLLIN)
        return bool(poll.poll(max(timeout, 0) * 1000))

    def kill(self) -> None:
        """End it at once."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)

    def close(self) -> None:
        """Give the descriptors back."""
        for held in (self.channel, self.guardian):
            if held is not None:
                held.close()
        os.close(self.pidfd)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@dataclasses.dataclass(frozen=True, slots=True)
class Zygote:
    """One running fork server."""

    kind: Kind
    path: Path  # of its socket
    pid: int

    def worker(
        self,
        image: int,
        *,
        container: int | None = None,
        ipc: bool = True,
        groups: cgroups.Cgroups | None = None,
        inherited: Sequence[int] = (),
        mount_namespace: int | None = None,
    ) -> Worker:
        """Start a criu.

        Args:
            image: Descriptor of the image directory.
            container: Pid of the supervisor whose namespaces it joins.
            ipc: Whether the ipc namespace is one of them.
            groups: Cgroups whose memory controller it joins first.
            inherited: Descriptors for a restored application.
            mount_namespace: Pid of a process whose mount namespace alone is joined.

        Raises:
            ZygoteError: it could not be started; the reason says which step failed.
            ProcessLookupError: the container has gone.
        """
        with contextlib.ExitStack() as stack:
            items = [("d", image)]
            if groups is not None:
                items += stack.enter_context(cgroups.joining(groups))
            if container is not None:
                kinds = [kind for kind in _NAMESPACES if ipc or kind != "ipc"]
                items += [("n", _opened(stack, f"/proc/{container}/ns/{kind}")) for kind in kinds]
            mounts = container or mount_namespace
            if mounts is not None:
                items.append(("m", _opened(stack, f"/proc/{mounts}/ns/mnt")))
            items += [("i", fd) for fd in inherited]
            return self._request(items)

    def _request(self, items: list[tuple[str, int]]) -> Worker:
        channel = None
        try:
            with contextlib.ExitStack() as stack:
                if self.kind is Kind.SWRK:
                    channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
                    stack.enter_context(theirs)
                    items = [("r", theirs.fileno()), *items]
                connection = _connect(self.path)
                try:
                    kinds, fds = "".join(kind for kind, _ in items), [fd for _, fd in items]
                    socket.send_fds(connection, [kinds.encode()], fds)
                    return self._reply(connection, channel)
                except BaseException:
                    connection.close()
                    raise
        except BaseException as error:
            if channel is not None:
                channel.close()
            if isinstance(error, OSError):
                raise ZygoteError(
                    f"the {self.kind.value} zygote does not answer: {error}"
                ) from error
            raise

    def _reply(self, connection: socket.socket, channel: socket.socket | None) -> Worker:
        connection.settimeout(_REPLY_SECONDS)
        data, fds, _, _ = socket.recv_fds(connection, 64, 1)
        if len(data) < _REPLY.size:
            raise ZygoteError(f"the {self.kind.value} zygote closed the connection")
        status, number, pid = _REPLY.unpack_from(data)
        if status or not fds:
            message = f"criu could not be started (step {status}: {os.strerror(number)})"
            raise ZygoteError(message)
        os.set_inheritable(fds[0], False)
        if self.kind is Kind.SWRK:
            connection.close()
            return Worker(channel, pid, fds[0])
        guardian = _GUARDIAN.unpack_from(data, _REPLY.size)[0] if len(data) > _REPLY.size else 0
        return Worker(None, pid, fds[0], connection, guardian)


def _opened(stack: contextlib.ExitStack, path: str) -> int:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise ProcessLookupError(error.errno, "the container has gone", path) from error
    stack.callback(os.close, fd)
    return fd


def _connect(path: Path) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        connection.connect(str(path))
    except BaseException:
        connection.close()
        raise
    return connection


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
                with contextlib.suppress(ProcessLookupError):
                    if processes.ns_inode(pid, "pid") == inside:
                        found.append(pid)
        return found

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
        if pid is None:
            return None
        try:
            _connect(self._path(kind, "sock")).close()
        except OSError:
            return None
        return Zygote(kind, self._path(kind, "sock"), pid)

    def _start(self, kind: Kind) -> Zygote:
        kdat = self._kdat()
        path = self._path(kind, "sock")
        path.unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
            listener.bind(str(path))
            path.chmod(0o600)
            listener.listen(64)
            pid = self._spawn(kind, listener.fileno(), kdat)
        zygote = Zygote(kind, path, pid)
        try:
            self._slice.adopt(pid)
            if kind is Kind.SWRK:
                _self_test(zygote, self._directory)
        except BaseException:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            raise
        note = {"pid": pid, "started": processes.start_time(pid)}
        self._path(kind, "json").write_text(json.dumps(note))
        _log.info("zygote.start kind=%s pid=%d criu=%s", kind.value, pid, self.bundle.version)
        return zygote

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
            _log.warning("zygote.oom kind=%s: cannot be protected from the OOM killer", kind.value)
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
    directory = scratch / "self-test"
    directory.mkdir(exist_ok=True)
    image = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with zygote.worker(image, mount_namespace=trap) as worker:
            if worker.channel is None:
                raise ZygoteError("the zygote's self-test has no channel")
            session = criu.Session(
                worker.channel, worker.pidfd, time.monotonic() + _SELF_TEST_SECONDS
            )
            try:
                session.call(criu.check_request(), _agree)
            except CriuError as error:
                worker.kill()
                raise ZygoteError(f"the zygote's self-test failed: {error}") from error
    finally:
        os.close(image)


def _agree(_: str) -> bool:
    return True
