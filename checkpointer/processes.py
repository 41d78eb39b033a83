"""Processes as /proc shows them: trees, identities, and the facts that a restore must bring back.

Host pids throughout, unless a name says vpid: the number inside the container. A process that has gone is a
ProcessLookupError, whatever call noticed it.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from bpf import syscall

_PIECE = 64 << 10  # of a file in /proc
_SOCKET = re.compile(r"socket:\[(\d+)\]")
# proc_pid_status(5): what decides the rights of a task, in the order of `Security`.
_FACTS = (
    *("Uid", "Gid", "Groups", "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"),
    *("NoNewPrivs", "Seccomp", "Seccomp_filters"),
)


class Security(NamedTuple):
    """The rights of one task, as the text the kernel prints; named after /proc/PID/status."""

    uid: str
    gid: str
    groups: str
    cap_inh: str
    cap_prm: str
    cap_eff: str
    cap_bnd: str
    cap_amb: str
    no_new_privs: str
    seccomp: str
    seccomp_filters: str
    label: str  # attr/current: AppArmor profile or SELinux context, "" without an LSM

    def differences(self, other: Security) -> list[str]:
        """Say in words where `other`, a later view of the same task, is different."""
        pairs = zip(self._fields, self, other, strict=True)
        return [
            f"{name} was {mine!r}, is {theirs!r}" for name, mine, theirs in pairs if mine != theirs
        ]


class Tuning(NamedTuple):
    """What criu does not bring back.

    It loses affinity, I/O priority and timer slack; an oom_score_adj of 0 it takes for none, and the application is
    left with that of the zygote, which nothing but a whole machine's memory may end.
    """

    affinity: tuple[int, ...]
    ioprio: int  # class << 13 | level
    timer_slack: int  # nanoseconds
    oom_score_adj: int | None = None  # unknown in images of before it was kept


@contextlib.contextmanager
def _gone() -> Iterator[None]:
    """Turn the ways in which a read of a vanished process fails into one error."""
    try:
        yield
    except FileNotFoundError as error:
        raise ProcessLookupError(errno.ESRCH, "no such process", error.filename) from error


def _text(path: str) -> str:
    with _gone():  # by number: this is on the way of every wake, and Path takes four times as long
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            return b"".join(iter(functools.partial(os.read, fd, _PIECE), b"")).decode(
                errors="replace"
            )
        finally:
            os.close(fd)


def tasks(pid: int) -> list[int]:
    """Return the thread ids of a process, the leader first."""
    with _gone(), os.scandir(f"/proc/{pid}/task") as entries:
        found = [int(entry.name) for entry in entries]
    return sorted(found, key=lambda tid: (tid != pid, tid))


def children(pid: int) -> list[int]:
    """Return the children of a process, whichever of its threads made them."""
    found: list[int] = []
    for tid in tasks(pid):
        with contextlib.suppress(ProcessLookupError):
            found += map(int, _text(f"/proc/{pid}/task/{tid}/children").split())
    return found


def tree(pid: int) -> list[int]:
    """Return `pid` and all its descendants, parents before children; [] when it has gone."""
    found = [pid] if Path(f"/proc/{pid}").exists() else []
    for member in found:  # grows while it is read
        with contextlib.suppress(ProcessLookupError):
            found += children(member)
    return found


def comm(pid: int) -> str:
    """Return the process name, at most 15 characters."""
    return _text(f"/proc/{pid}/comm").rstrip("\n")


def exe(pid: int) -> str:
    """Return the path of the program; " (deleted)" is part of it when the file is gone."""
    with _gone():
        return str(Path(f"/proc/{pid}/exe").readlink())


def _stat(pid: int) -> list[str]:
    """Return the fields of /proc/PID/stat from the third on; the name may contain anything."""
    return _text(f"/proc/{pid}/stat").rpartition(")")[2].split()


def work(pid: int) -> tuple[str, int]:
    """Return a process's state, as a letter, and the clock ticks that it has computed."""
    fields = _stat(pid)
    return fields[0], int(fields[11]) + int(fields[12])


def start_time(pid: int) -> int:
    """Return when the process started, in clock ticks since boot: with the pid, its identity."""
    return int(_stat(pid)[19])


def parent(pid: int) -> int:
    """Return the parent's pid; 0 when it is outside of our pid namespace."""
    return int(_stat(pid)[1])


def zombie(pid: int) -> bool:
    """Say whether the process is dead and only waits to be reaped."""
    return _stat(pid)[0] in "ZX"


def alive(pid: int, started: int | None = None) -> bool:
    """Say whether the process exists, is no zombie and, given `started`, is still the same one."""
    try:
        fields = _stat(pid)
    except ProcessLookupError:
        return False
    return fields[0] not in "ZX" and (started is None or int(fields[19]) == started)


def _status(pid: int) -> dict[str, str]:
    lines = (line.partition(":") for line in _text(f"/proc/{pid}/status").splitlines())
    return {name: value.strip() for name, _, value in lines}


class Memory(NamedTuple):
    """What an image would have of one process, in bytes."""

    private: int  # its own pages, in RAM or swapped out
    shared: int  # pages of anonymous memory that it may share with others


def memory(pid: int) -> Memory:
    """Return the memory of a process that a checkpoint has to save: none of its files'."""
    facts = _status(pid)
    private, swapped, shared = (
        1024 * int(facts.get(name, "0 kB").split()[0])
        for name in ("RssAnon", "VmSwap", "RssShmem")
    )
    return Memory(private + swapped, shared)


def vpid(pid: int) -> int:
    """Return a task's id in the innermost pid namespace it lives in."""
    return int(_status(pid)["NSpid"].split()[-1])


def ns_inode(pid: int, kind: str) -> int:
    """Return the inode of a namespace ("mnt", "pid", ...), its identity."""
    with _gone():
        return Path(f"/proc/{pid}/ns/{kind}").stat().st_ino


def socket_inodes(pids: Iterable[int]) -> set[int]:
    """Return the inodes of all sockets that the processes have open."""
    return {inode for pid in pids for _, inode in sockets(pid)}


def sockets(pid: int) -> list[tuple[int, int]]:
    """Return (descriptor, inode) of a process's sockets; [] when it has gone."""
    found = []
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):
                match = _SOCKET.fullmatch(str(entry.readlink()))
                if match:
                    found.append((int(entry.name), int(match[1])))
    return found


def pipes(pid: int) -> dict[int, str]:
    """Return which of a process's stdin, stdout and stderr are pipes, as "pipe:[INODE]"."""
    found = {}
    for fd in range(3):
        with contextlib.suppress(FileNotFoundError):
            name = str(Path(f"/proc/{pid}/fd/{fd}").readlink())
            if name.startswith("pipe:"):
                found[fd] = name
    return found


def _label(pid: int) -> str:
    try:
        return _text(f"/proc/{pid}/attr/current").strip("\n\0")
    except OSError as error:
        if error.errno == errno.EINVAL:  # no LSM that has labels
            return ""
        raise


def security(pid: int) -> dict[int, Security]:
    """Return the rights of every living thread of a process, by the thread's id in the container.

    A zombie has none any more that matter, and criu does not bring back those that it had; it restores a zombie as a
    process that ends in a moment. A thread that ends while it is looked at is left out.
    """
    found = {}
    for tid in tasks(pid):
        with contextlib.suppress(ProcessLookupError):
            status = _status(tid)
            if status["State"][0] in "ZX":
                continue
            facts = [status.get(name, "") for name in _FACTS]
            found[int(status["NSpid"].split()[-1])] = Security._make([*facts, _label(tid)])
    return found


def tuning(tid: int) -> Tuning:
    """Return the details of one thread that criu does not keep."""
    affinity = tuple(sorted(os.sched_getaffinity(tid)))
    ioprio = syscall.ioprio_get(syscall.IOPRIO_WHO_PROCESS, tid)
    slack = int(_text(f"/proc/{tid}/timerslack_ns"))
    return Tuning(affinity, ioprio, slack, int(_text(f"/proc/{tid}/oom_score_adj")))


def tune(tid: int, wanted: Tuning) -> None:
    """Bring back what differs from `wanted`; a CPU that has gone since is no reason to fail."""
    now = tuning(tid)
    if now.affinity != wanted.affinity:
        with contextlib.suppress(OSError):
            os.sched_setaffinity(tid, wanted.affinity)
    if now.ioprio != wanted.ioprio:
        syscall.ioprio_set(syscall.IOPRIO_WHO_PROCESS, tid, wanted.ioprio)
    if now.timer_slack != wanted.timer_slack:
        Path(f"/proc/{tid}/timerslack_ns").write_text(str(wanted.timer_slack))
    if wanted.oom_score_adj not in (None, now.oom_score_adj):
        Path(f"/proc/{tid}/oom_score_adj").write_text(str(wanted.oom_score_adj))
