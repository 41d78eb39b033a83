"""criu and the processes beside it, killed or stopped at any moment: what each of these comes to."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from node import criu_lab, engine
from node.engine import Striker, no_notes, runs_on, sleep, wake

from checkpointer import dump, errors, lazy, restore
from checkpointer.dump import Frozen
from checkpointer.images import Fence, Store
from checkpointer.kinds import Kind
from checkpointer.stall import Stall
from checkpointer.zygote import Zygotes

POINTS = 24  # at which a process is killed


def span_of_a_dump(zygotes: Zygotes, app: criu_lab.Application, store: Store) -> float:
    """Return for how many seconds criu works in a dump, after cycles that show it."""
    found = []
    for _ in range(2):
        result = dump.dump(zygotes, app.container.target, store, frozen=no_notes)
        wake(zygotes, app, result.image)
        result.image.drop()
        found.append(result.phases["total"] - result.phases["arm"])
    return 1e-3 * min(found)


def struck_in_a_dump(
    zygotes: Zygotes,
    app: criu_lab.Application,
    store: Store,
    delay: float,
    victim: str = "criu",
) -> bool:
    """Kill a process so many seconds into a dump; True if the application ran on whole, False if it was asleep by then."""
    before = engine.belongings(app)
    failure, image = None, None
    with Striker(zygotes, app.container.pid, delay, signal.SIGKILL, victim):
        try:
            image = sleep(zygotes, app, store)
        except errors.DumpError as error:
            failure = error
    if image is not None:
        engine.wake_as_often_as_an_actor(zygotes, app, image)
        assert app.intact()
        image.drop()
        return False
    assert failure is not None
    assert failure.outcome is errors.Outcome.RUNNING, failure
    runs_on(app, store)
    if victim == "criu":
        assert failure.kind is Kind.CRIU_KILLED, failure
        assert engine.belongings(app) == before
    return True


def test_criu_killed_at_any_point_of_a_dump(
    zygotes: Zygotes, app: criu_lab.Application, store: Store
) -> None:
    """Wherever criu is killed, the application is whole with its connections, or in its image; nothing of criu's stays."""
    span = span_of_a_dump(zygotes, app, store)
    survived = sum(
        struck_in_a_dump(zygotes, app, store, span * point / POINTS) for point in range(POINTS)
    )
    assert survived


LOSSES = (
    2  # of POINTS: a thread that executes criu's code ends when its tracer does (one in a hundred)
)


def test_the_tracer_killed_at_any_point_of_a_dump(
    zygotes: Zygotes, lab: Path, store: Store
) -> None:
    """The second tracer puts right what can be; what must never happen is that an image is used of what ran on."""
    app, lost, survived = criu_lab.Application(lab), [], 0
    span = span_of_a_dump(zygotes, app, store)
    for point in range(POINTS):
        try:
            survived += struck_in_a_dump(
                zygotes, app, store, span * point / POINTS, "zeropod:tracer"
            )
        except (AssertionError, OSError, errors.CheckpointerError) as error:
            lost.append(f"point {point}: {error!r:.200}")
            app.close()
            app = criu_lab.Application(lab)
    app.close()
    assert survived
    assert len(lost) <= LOSSES, lost


@pytest.mark.parametrize("victim", ["zeropod:tracer", "zeropod:second"])
def test_no_image_is_used_of_what_may_have_run_on(
    zygotes: Zygotes, app: criu_lab.Application, store: Store, victim: str
) -> None:
    """A tracer that dies while the image is being committed has let the application go on: it is not killed."""

    def strike(_: Frozen) -> dict[str, Any]:
        for pid in zygotes.running(app.container.pid):
            if engine.named(pid, victim):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)
        return {}

    with pytest.raises(errors.DumpError, match="was killed") as caught:
        dump.dump(zygotes, app.container.target, store, frozen=strike)
    assert caught.value.outcome is errors.Outcome.RUNNING
    runs_on(app, store)


def test_a_hung_criu_is_given_up_in_a_dump(
    zygotes: Zygotes, app: criu_lab.Application, store: Store
) -> None:
    """The watchdog of a dump ends criu, not the application."""
    hung_in_a_dump(zygotes, app, store, "criu")


def test_a_hung_tracer_is_given_up_in_a_dump(
    zygotes: Zygotes, app: criu_lab.Application, store: Store
) -> None:
    """Then, too, criu is ended, and the tracer, set going again, undoes its work."""
    hung_in_a_dump(zygotes, app, store, "zeropod:tracer")


def hung_in_a_dump(zygotes: Zygotes, app: criu_lab.Application, store: Store, victim: str) -> None:
    """Stop a process in a dump."""
    before = engine.belongings(app)
    with (
        Striker(zygotes, app.container.pid, 0.004, signal.SIGSTOP, victim),
        pytest.raises(errors.DumpError, match="in time") as caught,
    ):
        dump.dump(zygotes, app.container.target, store, frozen=no_notes, timeout=1.0)
    assert (caught.value.kind, caught.value.outcome) == (Kind.CRIU_HUNG, errors.Outcome.RUNNING)
    runs_on(app, store)
    assert engine.belongings(app) == before


def test_criu_killed_at_any_point_of_a_restore(
    zygotes: Zygotes, app: criu_lab.Application, store: Store
) -> None:
    """Whenever criu dies, the application runs, or nothing of it does and one of the tries of a wake brings it back."""
    image = sleep(zygotes, app, store)
    span = 1e-3 * wake(zygotes, app, image).phases["total"]
    retried = 0
    for point in range(POINTS):
        image = sleep(zygotes, app, store)
        failure = None
        with Striker(zygotes, app.container.pid, span * point / POINTS, signal.SIGKILL):
            try:
                wake(zygotes, app, image)
            except errors.RestoreError as error:
                failure = error
        if failure is not None:
            assert (failure.kind, failure.retry) == (Kind.CRIU_KILLED, True), failure
            assert app.container.supervisor.application() is None
            assert image.fence_state() is Fence.NONE
            engine.wake_as_often_as_an_actor(zygotes, app, image)
            retried += 1
        assert app.intact()
    assert retried


def test_a_hung_criu_is_given_up_in_a_restore(
    zygotes: Zygotes, app: criu_lab.Application, store: Store
) -> None:
    """The watchdog of a restore leaves nothing behind, and the same image brings the application back."""
    image = sleep(zygotes, app, store)
    with (
        Striker(zygotes, app.container.pid, 0.006, signal.SIGSTOP),
        pytest.raises(errors.RestoreError, match="in time") as caught,
    ):
        restore.restore(zygotes, app.container.target, image, timeout=1.0)
    assert (caught.value.kind, caught.value.retry) == (Kind.CRIU_HUNG, True)
    wake(zygotes, app, image)
    assert app.intact()


def test_an_application_may_be_called_criu(zygotes: Zygotes, lab: Path, store: Store) -> None:
    """It is known by its program, not by its name."""
    program = "import time; open('/proc/self/comm', 'w').write('criu'); time.sleep(1000)"
    python = os.path.realpath(sys.base_prefix + "/bin/python3")
    container = criu_lab.Container(lab, [python, "-c", program])
    try:
        pid = container.supervisor.application() or 0
        criu_lab.until(lambda: engine.named(pid, "criu"))
        image = dump.dump(zygotes, container.target, store, frozen=no_notes).image
        restored = restore.restore(zygotes, container.target, image)
        restored.resume()
        assert container.supervisor.application() == restored.pid
        assert engine.named(restored.pid, "criu")
    finally:
        container.kill()


def test_a_dead_page_daemon_costs_time_not_memory(
    zygotes: Zygotes, lab: Path, store: Store
) -> None:
    """Without its page daemon the application blocks instead of reading zeros; the image brings it back eagerly."""
    application = criu_lab.Application(lab, engine.LAZY_MEBIBYTES)
    try:
        image = sleep(zygotes, application, store)
        restored = restore.restore(zygotes, application.container.target, image, lazy=True)
        assert restored.drain is not None
        os.kill(restored.drain.pid, signal.SIGKILL)
        restored.resume()
        assert restored.drain.wait(10) is lazy.Drained.FAILED
        client = application.clients[0]
        assert client.silent(0.5)
        again = restore.again(zygotes, application.container.target, image, restored.drain)
        again.resume()
        again.settle()
        client = criu_lab.Client(application.container, 7000)
        assert client.ask() == application.digests[0]
        client.close()
        assert image.fence_state() is Fence.RELEASED
    finally:
        application.close()


def test_a_stopped_page_daemon_is_set_going(zygotes: Zygotes, lab: Path, store: Store) -> None:
    """Somebody has stopped it: all memory comes in nevertheless."""
    application = criu_lab.Application(lab, engine.LAZY_MEBIBYTES)
    try:
        image = sleep(zygotes, application, store)
        restored = wake(zygotes, application, image, lazy=True)
        assert restored.drain is not None
        os.kill(restored.drain.pid, signal.SIGSTOP)
        soon = Stall(time.monotonic(), stopped=0.2)
        assert restored.drain.wait(30, stall=soon) is lazy.Drained.OK
        restored.drain.close()
        assert application.intact()
    finally:
        application.close()


def test_a_hung_page_daemon_is_given_up(zygotes: Zygotes, lab: Path, store: Store) -> None:
    """It is ended when it has done nothing for too long, which makes it a dead one."""
    application = criu_lab.Application(lab, engine.LAZY_MEBIBYTES)
    try:
        image = sleep(zygotes, application, store)
        restored = restore.restore(zygotes, application.container.target, image, lazy=True)
        assert restored.drain is not None
        os.kill(restored.drain.pid, signal.SIGSTOP)
        hung = Stall(time.monotonic(), patience=0.2, work=lambda _: ("S", 1))
        assert restored.drain.wait(10, stall=hung) is lazy.Drained.FAILED
        again = restore.again(zygotes, application.container.target, image, restored.drain)
        again.resume()
        again.settle()
        client = criu_lab.Client(application.container, 7000)
        assert client.ask() == application.digests[0]
        client.close()
    finally:
        application.close()
