"""A program that the node's PID 1 keeps running, in a cgroup of its own; on the node, standard library only."""

import logging
import os
import signal
import time
from dataclasses import dataclass, field
from pathlib import Path

log = logging.getLogger("keeper")

RUN = Path("/run/node")
LOGS = Path("/var/log/node")

#: Between the end of a service and its next start, in seconds; the second bounds the back-off of
#: one that fails by itself again and again.
PAUSE, LONGEST_PAUSE = 0.2, 2.0

#: More words for a service's command line. How full this machine's disk is says nothing about the tests.
FLAGS = {"daemon": ["--disk-reserve", "1%", "--inode-reserve", "1%"]}


@dataclass
class Service:
    """One program that is kept running."""

    name: str
    command: list[str]
    cgroup: str
    needs: Path | None = None
    """A file without which it cannot be started; looked for again and again."""

    env: dict[str, str] = field(default_factory=dict)
    pid: int = 0
    started: float = 0.0
    not_before: float = 0.0
    pause: float = PAUSE

    def due(self) -> bool:
        """Whether it has to be started now."""
        if self.pid or time.monotonic() < self.not_before:
            return False
        if self.needs and not self.needs.exists():
            return False
        return not (RUN / "hold" / self.name).exists()

    def start(self) -> None:
        """Forks; the child moves into its cgroup before it becomes the program."""
        pid = os.fork()
        if pid:
            self.pid = pid
            self.started = time.monotonic()
            (RUN / f"{self.name}.pid").write_text(f"{pid}\n", encoding="ascii")
            return
        try:
            join(self.cgroup)
            os.setsid()
            signal.pthread_sigmask(signal.SIG_SETMASK, [])
            output = os.open(
                LOGS / f"{self.name}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644
            )
            os.dup2(output, 1)
            os.dup2(output, 2)
            words = [*self.command, *self.flags()]
            os.execvpe(words[0], words, {**os.environ, **self.env})
        except OSError:
            log.exception("cannot start %s", self.name)
        finally:
            os._exit(127)

    def flags(self) -> list[str]:
        """More words for its command line: a test may write them to a file and end it."""
        try:
            return (RUN / f"{self.name}.flags").read_text(encoding="utf-8").split()
        except FileNotFoundError:
            return FLAGS.get(self.name, [])

    def ended(self, status: int) -> None:
        """Notes that it is gone."""
        code = os.waitstatus_to_exitcode(status)
        log.info("%s (pid %d) ended: %d", self.name, self.pid, code)
        (RUN / f"{self.name}.pid").unlink(missing_ok=True)
        self.pid = 0
        now = time.monotonic()
        # A test that kills it shall find it back soon; a program that cannot start shall not spin.
        failing = code > 0 and now - self.started < 5.0
        self.pause = min(self.pause * 2, LONGEST_PAUSE) if failing else PAUSE
        self.not_before = now + self.pause


def join(name: str) -> None:
    """Moves the calling process into a cgroup of this name in every hierarchy."""
    for root in hierarchies():
        cgroup = root / name
        cgroup.mkdir(exist_ok=True)
        # cgroup v1: a new cpuset has neither processors nor memory and takes no process.
        if (root / "cpuset.cpus").exists() and root.name == "cpuset":
            for item in ("cpuset.cpus", "cpuset.mems"):
                if not (cgroup / item).read_text(encoding="ascii").strip():
                    (cgroup / item).write_text(
                        (root / item).read_text(encoding="ascii"), encoding="ascii"
                    )
        (cgroup / "cgroup.procs").write_text("0", encoding="ascii")


def hierarchies() -> list[Path]:
    """The roots of all cgroup hierarchies; one on cgroup v2."""
    root = Path("/sys/fs/cgroup")
    if (root / "cgroup.procs").exists():
        return [root]
    return [
        folder for folder in sorted(root.iterdir()) if folder.is_dir() and not folder.is_symlink()
    ]
