"""The checkpoint engine on real processes: what it promises when criu lives; test_criu_death.py has the rest."""

from __future__ import annotations

import dataclasses
import errno
import itertools
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from node import criu_lab
from node.engine import LAZY_MEBIBYTES, no_notes, runs_on, sleep, wake

from checkpointer import cgroups, criu, dump, errors, lazy, processes, restore, room
from checkpointer.dump import Frozen
from checkpointer.images import Fence, Store
from checkpointer.kinds import Kind
from checkpointer.supervisor import Signal, State
from checkpointer.zygote import Zygotes


def test_memory_and_connections_survive_three_cycles(
    zygotes: Zygotes, app: criu_lab.Application, store: Store
) -> None:
    """A process tree with threads answers on its old connections after every wake, in the cgroups it had before."""
    for _ in range(3):
        image = sleep(zygotes, app, store)
        assert app.container.supervisor.state() is State.ASLEEP
        assert app.container.supervisor.application() is None
        restored = wake(zygotes, app, image)
        assert app.intact()
        wanted = cgroups.of(app.container.pid)
        assert [cgroups.of(pid) for pid in restored.tree()] == [wanted, wanted]
        image.drop()


def test_phases_add_up(zygotes: Zygotes, app: criu_lab.Application, store: Store) -> None:
    """The phases of a dump and of a restore are their total."""
    result = dump.dump(zygotes, app.container.target, store, frozen=no_notes)
    restored = wake(zygotes, app, result.image)
    for phases in (result.phases, restored.phases):
        total = phases.pop("total")
        assert sum(phases.values()) == pytest.approx(total)


def test_the_image_tells_what_to_hold(
    zygotes: Zygotes, app: criu_lab.Application, store: Store
) -> None:
    """Listening ports and connections reach the callback from the image, and the notes reach the manifest."""
    seen: list[Frozen] = []

    def look(frozen: Frozen) -> dict[str, Any]:
        seen.append(frozen)
        return {"pod": "default/app"}

    image = dump.dump(zygotes, app.container.target, store, frozen=look).image
    assert {("tcp", 7000), ("tcp", 7001)} == set(seen[0].held.ports)
    assert {ends.local_port for ends in seen[0].held.connections} == {7000, 7001}
    loaded = store.load(app.container.id)
    assert loaded == image
    assert loaded.manifest.notes == {"pod": "default/app"}
    assert loaded.manifest.held == seen[0].held


def test_a_refusal_lets_the_application_run_on(
    zygotes: Zygotes, app: criu_lab.Application, store: Store
) -> None:
    """Refused in post-dump, with everything frozen and written, the application goes on and no image is left."""

    def refuse(_: Frozen) -> dict[str, Any]:
        raise errors.Refused("a packet came")

    with pytest.raises(errors.DumpError, match="a packet came") as caught:
        dump.dump(zygotes, app.container.target, store, frozen=refuse)
    assert caught.value.refused
    assert caught.value.outcome is errors.Outcome.RUNNING
    runs_on(app, store)


def test_a_bug_in_the_callback_lets_the_application_run_on(
    zygotes: Zygotes, app: criu_lab.Application, store: Store
) -> None:
    """Any exception of the caller's comes back to the caller, after the application was let go."""

    def fail(_: Frozen) -> dict[str, Any]:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        dump.dump(zygotes, app.container.target, store, frozen=fail)
    runs_on(app, store)


@pytest.mark.parametrize("failing", [1, 5, 20])
def test_a_disk_that_cannot_sync_lets_the_application_run_on(
    zygotes: Zygotes, app: criu_lab.Application, tmp_path: Path, failing: int
) -> None:
    """An fsync that fails, at any file, calls the dump off before the kill."""
    calls = itertools.count(1)

    def broken(fd: int) -> None:
        if next(calls) == failing:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        os.fsync(fd)

    store = Store(tmp_path / "broken", fsync=broken)
    with pytest.raises(errors.DumpError, match="Input/output error"):
        dump.dump(zygotes, app.container.target, store, frozen=no_notes)
    runs_on(app, store)


def test_a_commit_that_cannot_be_synced_is_taken_back(
    zygotes: Zygotes, app: criu_lab.Application, tmp_path: Path
) -> None:
    """When the last fsync fails the image has its name already: it is removed, and the application runs on."""
    committed = []

    def broken(fd: int) -> None:
        if Path(f"/proc/self/fd/{fd}").readlink() == store.images:
            committed.extend(store.all())
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    store = Store(tmp_path / "broken", fsync=broken)
    with pytest.raises(errors.DumpError, match="Input/output error"):
        dump.dump(zygotes, app.container.target, store, frozen=no_notes)
    assert committed == [app.container.id]
    runs_on(app, store)


def test_other_rights_than_before_kill_the_tree_before_it_runs(
    zygotes: Zygotes, app: criu_lab.Application, store: Store
) -> None:
    """A restored task with other rights than the dumped one never runs, and the reason names the difference."""
    image = sleep(zygotes, app, store)
    tid, facts = next(iter(image.manifest.security.items()))
    wrong = {**image.manifest.security, tid: facts._replace(cap_eff="0000000000000000")}
    other = dataclasses.replace(
        image, manifest=dataclasses.replace(image.manifest, security=wrong)
    )
    with pytest.raises(errors.RestoreError, match="cap_eff") as caught:
        restore.restore(zygotes, app.container.target, other)
    assert caught.value.retry
    assert app.container.supervisor.application() is None
    wake(zygotes, app, image)
    assert app.intact()


def test_an_image_is_used_once(zygotes: Zygotes, app: criu_lab.Application, store: Store) -> None:
    """After the application was let go from an image, nothing restores it again."""
    image = sleep(zygotes, app, store)
    assert image.fence_state() is Fence.NONE
    wake(zygotes, app, image)
    assert image.fence_state() is Fence.RELEASED
    app.container.supervisor.tell(Signal.ARM, State.ARMED)
    restore.kill_tree(app.container.target)
    with pytest.raises(errors.RestoreError, match="has run on since") as caught:
        restore.restore(zygotes, app.container.target, image)
    assert not caught.value.retry


def test_what_criu_forgets_comes_back(zygotes: Zygotes, lab: Path, store: Store) -> None:
    """CPU affinity, I/O priority and timer slack of each thread are as before."""
    program = "import os, time; os.sched_setaffinity(0, {0}); open('/proc/self/timerslack_ns', 'w').write('70000')"
    program += "; time.sleep(1000)"
    python = os.path.realpath(sys.base_prefix + "/bin/python3")
    container = criu_lab.Container(lab, [python, "-c", program])
    try:
        pid = container.supervisor.application() or 0
        criu_lab.until(lambda: processes.tuning(pid).timer_slack == 70000)
        subprocess.run(["ionice", "-c", "2", "-n", "6", "-p", str(pid)], check=True)
        before = processes.tuning(pid)
        image = dump.dump(zygotes, container.target, store, frozen=no_notes).image
        restored = restore.restore(zygotes, container.target, image)
        restored.resume()
        assert processes.tuning(restored.pid) != before
        restored.settle()
        assert processes.tuning(restored.pid) == before
    finally:
        container.kill()


SHARED_MEMORY = """
import ctypes, time
libc = ctypes.CDLL(None)
libc.shmat.restype, libc.shmat.argtypes = ctypes.c_void_p, [ctypes.c_int, ctypes.c_void_p, ctypes.c_int]
address = libc.shmat(libc.shmget(0x1234, 4096, 0o1600), None, 0)
ctypes.memmove(address, b"shared", 7)
while ctypes.string_at(address, 6) == b"shared":
    time.sleep(0.01)
"""


def test_sysv_memory_survives(zygotes: Zygotes, lab: Path, store: Store) -> None:
    """A process with SysV shared memory, as postgres has it, finds it again, twice."""
    python = os.path.realpath(sys.base_prefix + "/bin/python3")
    container = criu_lab.Container(lab, [python, "-c", SHARED_MEMORY])
    try:
        maps = Path(f"/proc/{container.supervisor.application()}/maps")
        criu_lab.until(lambda: "/SYSV00001234" in maps.read_text())
        for _ in range(2):
            image = dump.dump(zygotes, container.target, store, frozen=no_notes).image
            assert not image.manifest.ipc
            restored = restore.restore(zygotes, container.target, image)
            restored.resume()
            restored.settle()
            image.drop()
            time.sleep(0.1)
            assert container.supervisor.application() == restored.pid
    finally:
        container.kill()


def test_stdio_is_the_supervisors(
    zygotes: Zygotes, app: criu_lab.Application, store: Store
) -> None:
    """What the application writes after a wake goes where it went before."""
    before = processes.pipes(app.container.pid)
    assert before
    restored = wake(zygotes, app, sleep(zygotes, app, store))
    assert processes.pipes(restored.pid) == before


def test_open_files_keep_their_flags(
    zygotes: Zygotes, app: criu_lab.Application, store: Store
) -> None:
    """Looking at sockets from outside changes nothing of them: O_NONBLOCK, above all, is as it was."""
    before = flags(app)
    assert any(flag & os.O_NONBLOCK for flag in before.values())
    wake(zygotes, app, sleep(zygotes, app, store))
    assert flags(app) == before


def flags(app: criu_lab.Application) -> dict[tuple[int, str], int]:
    """Return the status flags of every socket of the application, by vpid and descriptor."""
    found = {}
    for pid in processes.tree(app.container.supervisor.application() or 0):
        for fd, _ in processes.sockets(pid):
            lines = Path(f"/proc/{pid}/fdinfo/{fd}").read_text().splitlines()
            text = next(line.split()[1] for line in lines if line.startswith("flags:"))
            found[processes.vpid(pid), str(fd)] = int(text, 8)
    return found


def test_a_lazy_wake_fills_in_all_memory(zygotes: Zygotes, lab: Path, store: Store) -> None:
    """A lazily restored application answers with its memory intact, also when another daemon takes the drain over."""
    application = criu_lab.Application(lab, LAZY_MEBIBYTES)
    try:
        image = sleep(zygotes, application, store)
        assert lazy.worth(image.manifest)
        restored = wake(zygotes, application, image, lazy=True)
        found = lazy.find(image)
        assert found is not None
        assert application.intact()
        assert found.wait(30) is lazy.Drained.OK
        assert restored.drain is not None
        assert restored.drain.state() is lazy.Drained.OK
        restored.drain.close()
    finally:
        application.close()


def test_no_dump_while_pages_come_in(zygotes: Zygotes, lab: Path, store: Store) -> None:
    """A dump of half-loaded memory is refused; the application runs on."""
    application = criu_lab.Application(lab, LAZY_MEBIBYTES)
    try:
        restored = wake(zygotes, application, sleep(zygotes, application, store), lazy=True)
        assert restored.drain is not None
        os.kill(restored.drain.pid, signal.SIGSTOP)
        with pytest.raises(errors.DumpError, match="still being loaded"):
            sleep(zygotes, application, store)
        os.kill(restored.drain.pid, signal.SIGCONT)
        assert restored.drain.wait(30) is lazy.Drained.OK
        restored.drain.close()
        assert application.intact()
    finally:
        application.close()


def test_no_room_is_said_before_anything_is_tried(
    zygotes: Zygotes, app: criu_lab.Application, store: Store
) -> None:
    """A memory limit below the image is a reason that names the cgroup and both sizes."""
    manifest = sleep(zygotes, app, store).manifest
    node, need = room.Room(0), room.Need(manifest.pages_bytes, manifest.tasks)
    node.take(app.container.id, app.container.pid, need)
    memory = cgroups.of(app.container.pid).controller("memory")
    assert memory is not None
    limit = "memory.max" if (memory / "memory.max").exists() else "memory.limit_in_bytes"
    (memory / limit).write_text(str(manifest.pages_bytes))
    with pytest.raises(errors.NoRoom, match=str(memory)) as caught:
        node.take(app.container.id, app.container.pid, need)
    assert caught.value.kind is Kind.NO_ROOM_CONTAINER


def test_a_later_daemon_finds_the_zygotes(zygotes: Zygotes, tmp_path: Path) -> None:
    """Zygotes outlive the daemon that started them: the next one of the same version uses them."""
    run_dir = zygotes._directory.parent
    later = Zygotes(zygotes.bundle, run_dir, cgroups.Slice.ensure("zeropod-engine.slice"))
    assert (later.swrk, later.lazy) == (zygotes.swrk, zygotes.lazy)
    assert criu.telling(tmp_path / "none") == ()
