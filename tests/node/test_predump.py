"""Memory that is written before the freeze: only where the kernel can tell what changes, which this one may not."""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import Any

import pytest
from node import criu_lab, engine, sleepers

from checkpointer import dump, errors, predump
from checkpointer.images import Store
from checkpointer.kinds import Kind
from checkpointer.zygote import Zygotes
from dev import cri

Pods = Callable[..., cri.Pod]

WANTED = {sleepers.SCALEDOWN: "1h", "zeropod.ctrox.dev/pre-dump": "true"}
MEGABYTES = 60
POINTS = 16  # at which criu is killed


@pytest.mark.annotation("pre-dump")
def test_it_sleeps_and_wakes_whatever_the_kernel_can(pods: Pods) -> None:
    """Where memory cannot be tracked nothing is different, and `why` says so."""
    web = sleepers.python(pods, "memory['all'] = 'kept'", pod=pods(annotations=WANTED))
    for _ in range(2):
        web.sleep()
        before = (web.image() / "pre").is_dir()
        told = [note for note in web.info()["notes"] if "pre-dump" in note]
        assert before or "CONFIG_MEM_SOFT_DIRTY" in told[0]
        assert not before or not told
        assert web.ask("memory['all']") == "kept"
        web.reach("RUNNING")
    web.unharmed()


@pytest.mark.vm
@pytest.mark.annotation("pre-dump")
@pytest.mark.parametrize("lazily", ["true", "false"])
def test_most_memory_is_written_before_the_freeze(pods: Pods, lazily: str) -> None:
    """What changed afterwards is in the image itself; over two sleeps everything is as it was."""
    choice = {"zeropod.ctrox.dev/lazy-restore": lazily}
    setup = f"memory['all'] = bytearray(os.urandom({MEGABYTES} << 20)); memory['n'] = 0"
    web = sleepers.python(pods, setup, pod=pods(annotations={**WANTED, **choice}))
    for number in (1, 2):
        digest = web.ask("memory.update(n=memory['n'] + 1) or hash(bytes(memory['all']))")
        web.sleep()
        assert pages(web.image() / "pre") > MEGABYTES << 20
        assert pages(web.image()) < MEGABYTES << 18
        assert web.ask("memory['n'], hash(bytes(memory['all']))") == [number, digest]
        web.reach("RUNNING")
        cri.until(lambda: not web.info()["draining"], 60)
    web.unharmed()


def pages(directory: Any) -> int:
    """Bytes of memory in a directory."""
    return sum(path.stat().st_size for path in directory.glob("pages-*.img"))


@pytest.mark.vm
@pytest.mark.timeout(600)
def test_criu_killed_at_any_point_of_a_pre_dump(
    zygotes: Zygotes, app: criu_lab.Application, store: Store
) -> None:
    """The application runs on as it was, and can be dumped."""
    assert zygotes.tracks_memory()
    failed = 0
    for point in range(POINTS):
        before = engine.belongings(app)
        failure = None
        striker = engine.Striker(
            zygotes, app.container.pid, point * 0.01, signal.SIGKILL, children=bool(point % 4)
        )
        with striker, store.stage(app.container.id) as staged:
            try:
                predump.write(zygotes, app.container.target, store, staged)
            except errors.DumpError as error:
                failure = error
        if failure is not None:
            assert failure.outcome is errors.Outcome.RUNNING, failure
            failed += 1
        engine.runs_on(app, store)
        assert engine.belongings(app) == before
    assert failed
    with store.stage(app.container.id) as staged:
        predump.write(zygotes, app.container.target, store, staged)
        done = dump.dump(
            zygotes, app.container.target, store, frozen=engine.no_notes, parent=staged
        )
    engine.wake(zygotes, app, done.image)
    assert app.intact()


@pytest.mark.vm
def test_a_hung_criu_is_given_up_in_a_pre_dump(
    zygotes: Zygotes, app: criu_lab.Application, store: Store
) -> None:
    """It is ended, and what it did is undone."""
    before = engine.belongings(app)
    with (
        engine.Striker(zygotes, app.container.pid, 0.0, signal.SIGSTOP),
        store.stage(app.container.id) as staged,
        pytest.raises(errors.DumpError, match="in time") as caught,
    ):
        predump.write(zygotes, app.container.target, store, staged, timeout=2.0)
    assert caught.value.kind is Kind.CRIU_HUNG
    engine.runs_on(app, store)
    assert engine.belongings(app) == before
