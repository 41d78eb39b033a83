"""Doors into a sleeping container that are no packets: exec, and the supervisor's own call for help.

`kubectl exec` has no NRI event. Its last step is an execve inside the container, so a fanotify mark on every mount of
the container's mount namespace (FAN_OPEN_EXEC_PERM, fanotify(7)) holds it there until the application is back. The
supervisor, woken by a signal while the application is away, opens `/.zeropod/wake` and is heard through FAN_OPEN_PERM
on that file: a denial tells it to wait for RESUME.

A thread of its own answers, because whoever waits here is blocked in the kernel. If the daemon dies, the kernel lets
everybody through.
"""

import contextlib
import dataclasses
import logging
import os
import threading
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

from bpf import syscall
from checkpointer import processes
from checkpointer.waiters import Waiters

log = logging.getLogger(__name__)

_BUFFER = 64 << 10


@dataclasses.dataclass(slots=True)
class _Watched:
    container_id: str
    supervisor: int
    wait: bool
    held: bool = True
    waiting: Waiters = dataclasses.field(default_factory=Waiters)
    mounts: list[tuple[int, bytes]] = dataclasses.field(default_factory=list)


class ExecWatch:
    """One fanotify group for all containers of the node.

    Args:
        wake_file: The file that supervisors open, on the host.
    """

    def __init__(self, wake_file: Path) -> None:
        self._wanted: Callable[[str, str], bool] = lambda _id, _cause: False
        self._lock = threading.Lock()
        self._by_mount_ns: dict[int, _Watched] = {}
        self._supervisors: dict[int, str] = {}
        self._thread = threading.Thread(target=self._serve, name="execwatch", daemon=True)
        self._fd = syscall.fanotify_init(
            syscall.FAN_CLASS_CONTENT
            | syscall.FAN_CLOEXEC
            | syscall.FAN_UNLIMITED_MARKS
            | syscall.FAN_UNLIMITED_QUEUE,
            os.O_RDONLY | os.O_CLOEXEC | os.O_LARGEFILE,
        )
        syscall.fanotify_mark(
            self._fd,
            syscall.FAN_MARK_ADD,
            syscall.FAN_OPEN_PERM,
            syscall.AT_FDCWD,
            os.fsencode(wake_file),
        )

    def start(self, wanted: Callable[[str, str], bool]) -> None:
        """Begin to answer.

        Args:
            wanted: Called with (container id, "exec" or "signal") on the watch's own thread when somebody waits; must
                return at once. False lets them go on as if nobody listened.
        """
        self._wanted = wanted
        self._thread.start()

    def alive(self) -> bool:
        """Whether those who wait are answered."""
        return self._thread.is_alive()

    def know(self, supervisor: int, container_id: str) -> None:
        """Say whose supervisor a pid is, so that its call is understood."""
        with self._lock:
            self._supervisors[supervisor] = container_id

    def forget(self, supervisor: int) -> None:
        """The supervisor is gone."""
        with self._lock:
            self._supervisors.pop(supervisor, None)

    def hold(self, container_id: str, supervisor: int, *, wait: bool = True) -> None:
        """From now on whoever executes a program in the container waits; before the application is frozen.

        Args:
            container_id: Whose programs.
            supervisor: Its PID 1.
            wait: False: they are told of, and go on at once.

        Raises:
            OSError: The container is gone, or a mount cannot be marked.
        """
        watched = _Watched(container_id, supervisor, wait)
        with self._lock:
            self._by_mount_ns[processes.ns_inode(supervisor, "mnt")] = watched
        mounts = Path(f"/proc/{supervisor}/mountinfo").read_text(errors="surrogateescape")
        with _root(supervisor) as root:
            for number, point in mount_points(mounts):
                try:
                    if self._mark(syscall.FAN_MARK_ADD, root, point, number):
                        watched.mounts.append((number, point))
                except OSError as error:
                    # Covered by a later mount, or of a kind that has no executables (EINVAL): no door to hold.
                    log.debug("execwatch.unmarked", extra={"mount": point, "error": str(error)})

    def release(self, container_id: str) -> None:
        """The application is back, or never left: let everybody through and watch no more. Idempotent."""
        with self._lock:
            found = [
                (ns, w) for ns, w in self._by_mount_ns.items() if w.container_id == container_id
            ]
            for ns, watched in found:
                del self._by_mount_ns[ns]
                watched.held = False
        for _, watched in found:
            for fd in watched.waiting.take():
                self._answer(fd, syscall.FAN_ALLOW)
            with contextlib.suppress(OSError), _root(watched.supervisor) as root:
                for number, point in watched.mounts:
                    with contextlib.suppress(OSError):  # the mount is gone, and the mark with it
                        self._mark(syscall.FAN_MARK_REMOVE, root, point, number)

    def turn_away(self, container_id: str, pids: Collection[int]) -> bool:
        """Let the execs of these processes fail, should they wait; False if none does."""
        denied = []
        with self._lock:
            for watched in self._by_mount_ns.values():
                if watched.container_id == container_id:
                    denied += watched.waiting.take(pids)
        for fd in denied:
            self._answer(fd, syscall.FAN_DENY)
        return bool(denied)

    def close(self) -> None:
        """Let everybody through."""
        os.close(self._fd)

    def _mark(self, action: int, root: int, point: bytes, number: int) -> bool:
        """Mark a mount, or take its mark off; False if its path leads to another one.

        A container may have put symbolic links into the path of its own mount point. They lead nowhere out of its root.
        """
        opened = syscall.openat2(root, point, os.O_PATH | os.O_NOFOLLOW)
        try:
            if mount_number(Path(f"/proc/self/fdinfo/{opened}").read_text()) != number:
                return False
            flags = action | syscall.FAN_MARK_MOUNT
            link = f"/proc/self/fd/{opened}".encode()
            syscall.fanotify_mark(
                self._fd, flags, syscall.FAN_OPEN_EXEC_PERM, syscall.AT_FDCWD, link
            )
        finally:
            os.close(opened)
        return True

    def _serve(self) -> None:
        while True:
            try:
                buffer = os.read(self._fd, _BUFFER)
            except OSError:
                return  # closed
            for event in syscall.fanotify_events(buffer):
                if event.fd < 0:
                    continue
                try:
                    self._decide(event)
                except Exception:
                    # Whatever went wrong here, nobody may stay blocked for it.
                    log.exception("execwatch.failed", extra={"pid": event.pid})
                    self._forget_waiter(event.fd)
                    self._answer(event.fd, syscall.FAN_ALLOW)

    def _decide(self, event: syscall.FanotifyEvent) -> None:
        if event.mask & syscall.FAN_OPEN_PERM:
            self._called(event)
            return
        watched = self._door(event)
        if watched is None:
            self._answer(event.fd, syscall.FAN_ALLOW)
            return
        if not watched.wait:
            self._wanted(watched.container_id, "exec")
            self._answer(event.fd, syscall.FAN_ALLOW)
            return
        answer = self._admit(watched, event)
        if answer is not None:
            self._answer(event.fd, answer)
            return
        log.debug("exec.held", extra={"container": watched.container_id, "pid": event.pid})
        if not self._wanted(watched.container_id, "exec"):
            self.release(watched.container_id)

    def _admit(self, watched: _Watched, event: syscall.FanotifyEvent) -> int | None:
        """Have it wait; else the answer that it gets at once."""
        with self._lock:
            if not watched.held:
                return syscall.FAN_ALLOW
            if watched.waiting.add(event.fd, event.pid):
                return None
            ended = watched.waiting.take_ended()
            waits = watched.waiting.add(event.fd, event.pid)
        for fd in ended:
            self._answer(
                fd, syscall.FAN_ALLOW
            )  # nobody hears it, but the kernel forgets the event
        if waits:
            return None
        # Let in it would find no application, and might change the files of the one that is to be restored.
        log.warning("exec.denied", extra={"container": watched.container_id, "pid": event.pid})
        return syscall.FAN_DENY

    def _door(self, event: syscall.FanotifyEvent) -> _Watched | None:
        """The container at whose door this execve is held; None if it may go on."""
        try:
            mount_ns = processes.ns_inode(event.pid, "mnt")
        except OSError:
            return None
        with self._lock:
            watched = self._by_mount_ns.get(mount_ns)
        # A task blocked here cannot be seized by criu, so the tree's own programs are let through at once.
        if watched is None or _descends(event.pid, watched.supervisor):
            return None
        return watched

    def _forget_waiter(self, fd: int) -> None:
        with self._lock:
            for watched in self._by_mount_ns.values():
                watched.waiting.drop(fd)

    def _called(self, event: syscall.FanotifyEvent) -> None:
        with self._lock:
            container_id = self._supervisors.get(event.pid)
        heard = container_id is not None and self._wanted(container_id, "signal")
        self._answer(event.fd, syscall.FAN_DENY if heard else syscall.FAN_ALLOW)

    def _answer(self, fd: int, response: int) -> None:
        try:
            os.write(self._fd, syscall.fanotify_response(fd, response))
        except OSError as error:
            log.debug("execwatch.unanswered", extra={"error": str(error)})  # the waiter was killed
        finally:
            os.close(fd)


@contextlib.contextmanager
def _root(pid: int) -> Iterator[int]:
    """A descriptor of the root of a container."""
    fd = os.open(f"/proc/{pid}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


def _descends(pid: int, ancestor: int) -> bool:
    """Whether a process is below another; what has ended descends from nobody."""
    try:
        while pid > 1 and pid != ancestor:
            pid = processes.parent(pid)
    except ProcessLookupError:
        return False
    return pid == ancestor


def mount_points(mountinfo: str) -> list[tuple[int, bytes]]:
    """Number and mount point of each line of /proc/PID/mountinfo (proc(5)), unescaped, as seen from its root."""
    points = []
    for line in mountinfo.splitlines():
        number, _, _, _, point, *_ = line.split(" ")
        raw = point.encode("utf-8", "surrogateescape")
        points.append((int(number), raw.decode("unicode_escape").encode("latin-1")))
    return points


def mount_number(fdinfo: str) -> int:
    """The mount that an open file is on, from the text of /proc/PID/fdinfo/FD (proc(5)); 0 if it does not say."""
    found = (line.split()[1] for line in fdinfo.splitlines() if line.startswith("mnt_id:"))
    return int(next(found, 0))
