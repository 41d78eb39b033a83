"""What the node keeps and forgets; everything that touches the kernel is a stand-in."""

import asyncio
import concurrent.futures
import os
import threading
from collections import defaultdict
from types import SimpleNamespace
from unittest import mock

import pytest

from checkpointer import adoption, api, containers, processes, supervisor
from checkpointer.container import Container
from checkpointer.node import Node
from checkpointer.policy import Policy
from dev import patience


class Datapath:
    """Remembers what it was asked for."""

    def __init__(self):
        self.forgotten, self.abandoned = [], []
        self.held = []

    def forget(self, sandbox_id):
        self.forgotten.append(sandbox_id)

    def abandon(self, sandbox_id, container_id):
        self.abandoned.append((sandbox_id, container_id))

    def sandboxes(self):
        return ["pod", "pod-of-the-past"]

    def holds(self):
        return self.held


@pytest.fixture
def engine():
    return SimpleNamespace(
        datapath=Datapath(),
        store=mock.Mock(),
        zygotes=mock.Mock(retire=list, running=mock.Mock(return_value=[])),
        drains=concurrent.futures.ThreadPoolExecutor(),
        pod_locks=defaultdict(asyncio.Lock),
    )


@pytest.fixture
async def make(engine, records):
    """Makes nodes, and ends their threads."""
    made = []

    def make_one():
        made.append(Node(engine, records, workers=1))
        return made[-1]

    yield make_one
    for node in made:
        await node.close()


@pytest.fixture
def records(tmp_path):
    return containers.Records(tmp_path)


def record(name, *, pid=0, started=0, reason=""):
    ids = {"id": name, "sandbox_id": "pod", "pod": "p", "namespace": "n", "uid": "u"}
    return containers.Record(**ids, name=name, pid=pid, start_time=started, reason=reason)


def reported(name, state="running", **policy):
    who = {"id": name, "sandbox_id": "pod", "pod": "p", "namespace": "n", "uid": "u", "name": name}
    return api.m.Container(
        **who, reason="plain", kind="other", state=state, policy=api.m.Policy(**policy)
    )


async def settled(node):
    while node._tasks:
        await next(iter(node._tasks))


async def test_no_image_is_removed_before_the_plugin_has_said_who_there_is(make, engine, records):
    """A record can be lost, or be of a version with other fields; the image is all that is left of its container."""
    (records._directory / "asleep.json").write_text('{"id": "asleep", "from": "the future"}')
    node = make()
    node.load()
    await node.loaded()
    node.report([reported("other")], [], None)
    await settled(node)

    engine.store.gc.assert_not_called()
    assert engine.datapath.forgotten == []

    node.report([reported("asleep"), reported("other")], [], [])
    await settled(node)

    engine.store.gc.assert_called_once_with({"asleep", "other"})
    assert engine.datapath.forgotten == ["pod-of-the-past"]


async def test_what_was_held_for_a_dead_container_passes(make, engine, records):
    """Its successor listens on the same ports in the same network namespace."""
    records.put(record("dead", pid=2**22 + 1, started=1))
    engine.datapath.held = [
        SimpleNamespace(sandbox_id="pod", container_id=name) for name in ("unheard-of", "known")
    ]
    node = make()
    node.load()

    assert engine.datapath.abandoned == [("pod", "dead")]
    assert list(records.load()) == []

    node.report([reported("known")], [], [])
    await settled(node)

    assert engine.datapath.abandoned[1:] == [("pod", "unheard-of")]


async def test_a_container_that_ends_while_it_is_taken_over_is_forgotten(make, engine, records):
    """Nobody else would: without an actor there is nobody to notice its end."""
    own = os.getpid()  # alive, and no supervisor
    records.put(record("short", pid=own, started=processes.start_time(own)))
    node = make()
    node.load()
    await node.loaded()

    await node._farewell.all_over()
    assert list(records.load()) == []
    assert node.roster.ids() == set()
    assert engine.datapath.forgotten == ["pod"]


async def test_a_container_that_ends_in_any_step_of_it_is_forgotten(
    make, engine, records, monkeypatch
):
    """Whatever the kernel calls it that the process is gone, nobody tries again what cannot be."""
    own = os.getpid()
    alive = iter([True, True, False])
    monkeypatch.setattr(containers.Record, "alive", lambda _: next(alive))
    monkeypatch.setattr(supervisor, "is_supervisor", lambda _: True)
    monkeypatch.setattr(adoption, "adopt", mock.Mock(side_effect=FileNotFoundError))
    records.put(record("short", pid=own, started=processes.start_time(own)))
    node = make()
    node.load()
    await node.loaded()

    await node._farewell.all_over()
    assert (node.roster.ids(), list(records.load())) == (set(), [])
    assert engine.datapath.forgotten == ["pod"]


async def test_who_waits_for_a_criu_that_does_not_end_keeps_nobody_waiting(
    make, engine, records, monkeypatch
):
    """A node with one thread takes over the others; and the one when its criu is gone."""
    gone = threading.Event()
    adopted = mock.Mock(side_effect=OSError)
    monkeypatch.setattr(supervisor, "is_supervisor", lambda _: True)
    monkeypatch.setattr(adoption, "clear", lambda who, _: who.id != "stuck" or gone.wait())
    monkeypatch.setattr(adoption, "adopt", adopted)
    own = os.getpid()
    for name in ("stuck", "other"):
        records.put(record(name, pid=own, started=processes.start_time(own)))
    node = make()
    node.load()
    try:
        await asyncio.to_thread(patience.until, lambda: adopted.called)
        assert [call.args[0].id for call in adopted.call_args_list] == ["other"]
    finally:
        gone.set()
    await node.loaded()
    assert [call.args[0].id for call in adopted.call_args_list] == ["other", "stuck"]


async def test_what_could_not_be_taken_over_leaves_nothing(make, engine, records, monkeypatch):
    """It has a slot in the maps, perhaps an image, and no actor who would see its end."""
    own = os.getpid()
    monkeypatch.setattr(supervisor, "is_supervisor", lambda _: True)
    monkeypatch.setattr(adoption, "adopt", mock.Mock(side_effect=OSError))
    records.put(record("stuck", pid=own, started=processes.start_time(own)))
    node = make()
    node.load()
    await node.loaded()
    assert "stuck" in node.roster
    assert engine.datapath.forgotten == []

    node.report([], ["stuck"], None)
    await settled(node)
    await node._farewell.all_over()

    assert (node.roster.ids(), list(records.load())) == (set(), [])
    engine.store.drop.assert_called_once_with("stuck")
    assert engine.datapath.forgotten == ["pod"]


async def test_what_was_held_for_one_that_could_not_be_taken_over_passes(
    make, engine, records, monkeypatch
):
    """Its pod stays for another container: the one's successor has the same ports, and nobody reads the old TAP."""
    own = os.getpid()
    monkeypatch.setattr(supervisor, "is_supervisor", lambda _: True)
    monkeypatch.setattr(adoption, "adopt", mock.Mock(side_effect=OSError))
    for name in ("stuck", "sibling"):
        records.put(record(name, pid=own, started=processes.start_time(own)))
    node = make()
    node.load()
    await node.loaded()
    node.report([], ["stuck"], None)
    await settled(node)
    await node._farewell.all_over()

    assert engine.datapath.abandoned == [("pod", "stuck")]
    assert engine.datapath.forgotten == []


async def test_a_pod_stays_while_another_container_of_it_is_taken_over(make, engine):
    """Its slot in the maps would be given to another pod, with filters that still name it."""
    node = make()
    node.roster.note(record("new", pid=1, started=1))
    node.roster.note(record("plain", reason="it has a terminal"))
    node._forget_pod("pod")
    await node._farewell.all_over()

    assert engine.datapath.forgotten == []

    node.roster.drop("new")
    node._forget_pod("pod")
    await node._farewell.all_over()

    assert engine.datapath.forgotten == ["pod"]


async def test_a_complete_report_may_come_in_parts(make):
    """What an earlier part held is there, though the last one only names it."""
    node = make()
    node.report([reported("gone"), reported("a")], [], None)
    node.report([reported("b")], [], ["a", "b"])

    assert sorted(node.roster.ids()) == ["a", "b"]


async def test_a_name_that_no_container_has_had_is_told(make):
    """Also of those that have ended: an init container is not there any more when somebody asks."""
    node = make()
    names = ["init", "web", "wbe"]
    node.report([reported("init", "stopped", names=names), reported("worker")], [], None)
    node.report([reported("web", names=names)], [], None)
    [(info, text)] = node.answers.explanations(api.m.Query(pod="p", container="web"))

    [note] = info.notes
    assert (
        note
        == "its annotations name wbe, which the pod has not had so far (only init, web, worker)"
    )
    assert text.endswith(f" Note: {note}.")


async def test_a_policy_that_is_read_otherwise_holds_for_what_runs(make, records):
    """A newer plugin makes more of the same annotations; the container need not be restarted for it."""
    node = make()
    container = Container(record("known", pid=1), mock.Mock())
    node._actors["known"] = mock.Mock(
        container=container, close=mock.AsyncMock(), at_rest=mock.AsyncMock()
    )
    node.roster.note(container.record)
    node.report([reported("known", max_request=5.0, ignore_ports=[9])], [], None)

    assert container.record.policy == Policy(max_request=5.0, ignore_ports=(9,))
    assert container.record.pid == 1
    assert [stored.policy.max_request for stored in records.load()] == [5.0]
    container.pod.ignore.assert_called_once()
    node._actors["known"].renewed.assert_called_once_with()


async def test_one_container_that_cannot_be_taken_in_does_not_hide_the_others(make, monkeypatch):
    """The plugin would send the same report again for ever."""
    node = make()
    monkeypatch.setattr(processes, "start_time", mock.Mock(side_effect=PermissionError))
    odd = reported("odd")
    odd.managed = True
    node.report([odd, reported("other")], [], [])

    assert sorted(node.roster.ids()) == ["other"]
