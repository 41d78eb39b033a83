"""CPU limits and memory where they are the kernel's own of today: cgroup version 2, as dev/test --tier vm has it."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Self

import pytest
from node import sleepers
from node.faults import held

from checkpointer import cgroups, settings
from dev import cri

Pods = Callable[..., cri.Pod]

LIMIT = "10000 100000"
JOURNAL = settings.Settings().run_dir / "cpu.max.json"


class Watch:
    """While the context lasts it notes what is in some files."""

    def __init__(self, *files: Path) -> None:
        self.seen: set[tuple[str, ...]] = set()
        self._files = files
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def now(self) -> tuple[str, ...]:
        """The first word of each."""
        return tuple(file.read_text().split()[0] for file in self._files)

    def _run(self) -> None:
        while not self._over.is_set():
            self.seen.add(self.now())
            time.sleep(0.001)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()


@pytest.fixture
def limited(pods: Pods) -> Iterator[tuple[sleepers.Sleeper, tuple[Path, Path]]]:
    """An application with a tenth of a CPU, given to it when it had started, and the files of the two limits."""
    one = sleepers.python(pods, "ballast = os.urandom(8 << 20)")
    group = cgroups.of(one.pid).controller("cpu")
    assert group is not None
    files = (group / "cpu.max", group.parent / "cpu.max")
    for file in files:
        file.write_text(LIMIT)
    yield one, files
    one.unharmed()


@pytest.mark.vm
@pytest.mark.timeout(180)
def test_no_cpu_limit_while_it_is_restored(
    limited: tuple[sleepers.Sleeper, tuple[Path, Path]],
) -> None:
    """The limits of container and pod are lifted for a restore and as before it when the application answers."""
    one, files = limited
    one.ask("memory.update(a=1)")
    one.sleep()
    with Watch(*files) as watch:
        assert one.ask("memory['a'], len(ballast)", timeout=60) == [1, 8 << 20]
        one.reach("RUNNING")
    assert ("max", "max") in watch.seen
    assert watch.now() == ("10000", "10000")
    assert not JOURNAL.exists()
    wanted = cgroups.of(one.pid)
    assert all(cgroups.of(pid) == wanted for pid in one.tree())


@pytest.mark.vm
@pytest.mark.timeout(180)
def test_a_limit_that_a_dead_daemon_had_lifted(
    limited: tuple[sleepers.Sleeper, tuple[Path, Path]],
) -> None:
    """The next daemon puts it back before it does anything else."""
    one, files = limited
    one.ask("memory.update(a=1)")
    one.sleep()
    with sleepers.without_daemon():
        JOURNAL.write_text(json.dumps({str(file): LIMIT for file in files}))
        for file in files:
            file.write_text("max")
    assert Watch(*files).now() == ("10000", "10000")
    assert not JOURNAL.exists()
    assert one.ask("memory['a']", timeout=60) == 1


@pytest.mark.vm
@pytest.mark.timeout(180)
def test_a_pids_limit_that_leaves_no_room(pods: Pods) -> None:
    """A wake for which there are too few tasks is held, with the limit in `why`, and answered once there are more."""
    one = sleepers.python(pods)
    group = cgroups.of(one.pid).controller("pids")
    assert group is not None
    with one.talk(timeout=60) as talk:
        talk.ask("memory.update(a=1)")
        one.sleep()
        (group / "pids.max").write_text("3")
        talk.send("memory['a']")
        held(one, "no-room-tasks")
        assert str(group) in one.why()
        (group / "pids.max").write_text("max")
        assert talk.answer() == 1
    one.unharmed()
