"""What the plugin does at each event, with a fake of containerd's records."""

import asyncio
import os
import random

import pytest
from fakes.plugged import WANTED, connected

from nri_plugin import (
    api,
    containers,
    injection,
    mux,
    plugin,
    seccomp,
)


@pytest.fixture
async def node(tmp_path):
    async with connected(tmp_path) as found:
        yield found


async def test_a_wanted_container_gets_the_supervisor(node, tmp_path):
    """The stored spec is replaced by the injected one; nothing is claimed before it is seen."""
    spec = node.records.add("c1")
    await node.event("PostCreateContainer", state=api.State.CREATED)
    denied = [seccomp.IO_URING, seccomp.LANDLOCK]
    assert node.records.written == [("c1", injection.rewrite(spec, tmp_path, denied=denied))]
    known = node.known.get("c1")
    assert (known.injected, known.managed, known.reason) == (True, False, "")
    assert (known.title, known.uid, known.sandbox_id) == ("default/pod/web", "u1", "p1")


async def test_the_runtime_handler_is_enough(node):
    """A pod of the runtime class zeropod needs no annotation."""
    node.records.add("c1")
    await node.event("PostCreateContainer", annotations={}, handler="zeropod")
    assert node.records.written


@pytest.mark.parametrize("event", ["PostCreateContainer", "StartContainer", "PostStartContainer"])
async def test_an_unwanted_container_is_not_even_looked_at(node, event):
    """No read, no write, no memory of it."""
    await node.event(event, annotations={"app": "web"}, args=["/bin/missing"], env=["PATH=/bin"])
    assert node.records.written == []
    assert list(node.known) == []


@pytest.mark.parametrize(
    ("process", "annotations", "said"),
    [
        ({"capabilities": {"bounding": ["CAP_SYS_ADMIN"]}}, WANTED, "CAP_SYS_ADMIN"),
        ({"terminal": True}, WANTED, "tty"),
        ({}, {"zeropod.ctrox.dev/scaledown-duration": "soon"}, "'soon'"),
        ({}, {"zeropod.ctrox.dev/nonsense": "1"}, "nonsense"),
    ],
)
async def test_a_refused_container_stays_plain_with_a_reason(node, process, annotations, said):
    """The spec is not written, and the daemon can say why."""
    node.records.add("c1", **process)
    await node.event("PostCreateContainer", annotations=annotations)
    assert node.records.written == []
    known = node.known.get("c1")
    assert not known.injected
    assert said in known.reason


async def test_without_the_supervisors_file_nothing_is_written(node, tmp_path):
    """A spec that names a missing file is a container that cannot start."""
    node.records.add("c1")
    (tmp_path / "init").unlink()
    await node.event("PostCreateContainer")
    assert node.records.written == []
    assert "run the installer" in node.known.get("c1").reason


async def test_another_runtime_than_containerd_is_left_alone(tmp_path):
    """CRI-O has NRI, but not the API that changes a stored spec."""
    async with connected(tmp_path, runtime_name="cri-o") as node:
        await node.event("PostCreateContainer")
        assert "cri-o" in node.known.get("c1").reason


async def test_containerd_not_answering_means_plain(node):
    """The reason has its words; the container's creation goes on."""
    node.records.failure = containers.ContainersError("deadline_exceeded: Deadline Exceeded")
    await node.event("PostCreateContainer")
    assert "deadline_exceeded" in node.known.get("c1").reason


async def test_a_mistake_of_ours_means_plain_with_a_reason(node):
    """Whatever is raised on the way, the creation goes on and the owner is told."""
    node.records.failure = ZeroDivisionError("division by zero")
    await node.event("PostCreateContainer")
    assert node.records.written == []
    assert "ZeroDivisionError" in node.known.get("c1").reason


async def test_a_containerd_that_hangs_means_plain_with_a_reason(node):
    """The runtime gives up on us after its time-out; what we knew until then is reported."""
    node.records.hang = True
    pod = api.PodSandbox(id="p1", annotations=WANTED)
    container = api.Container(id="c1", pod_sandbox_id="p1")
    event = api.EventRequest(pod=pod, container=container)
    _, message = node.runtime.request("PostCreateContainer", event, timeout=0.1)
    node.runtime.send(mux.PLUGIN, message)
    await node.runtime.ended()
    assert node.known.get("c1").reason == plugin.TOO_SLOW


async def test_a_second_instance_of_the_plugin_changes_nothing(node, tmp_path):
    """In a rolling update two plugins see the same event; the supervisor goes in once."""
    spec = node.records.add("c1")
    record = node.records.stored["c1"]
    injected = injection.rewrite(spec, tmp_path)
    node.records.stored["c1"] = containers.Record("c1", record.runtime, injected, "")
    await node.event("PostCreateContainer")
    assert node.records.written == []
    assert node.known.get("c1").injected


async def test_a_plain_container_is_never_rejected(node):
    """Whatever its args look like, without our mark the runtime has checked them itself."""
    args = injection.supervised(["nonexist"])
    await node.event("StartContainer", pid=os.getpid(), args=args, env=["PATH=/bin"])


async def test_a_write_that_was_given_up_and_came_through_is_noticed(node, tmp_path):
    """The next event shows the stored spec: ours after all, so the process is looked at."""
    node.records.add("c1")
    node.records.failure = containers.ContainersError("deadline_exceeded")
    await node.event("PostCreateContainer")
    assert not node.known.get("c1").injected
    mount = api.Mount(destination="/.zeropod", source=str(tmp_path))
    stored = {"args": injection.supervised(["sh"]), "annotations_of_spec": {injection.MARK: "[]"}}
    await node.event("StartContainer", mounts=[mount], **stored)
    assert node.known.get("c1").injected


async def test_managed_is_what_proc_says(node):
    """A stored spec proves nothing: this test's own process is no supervisor, so no claim."""
    node.records.add("c1")
    await node.event("PostCreateContainer")
    await node.event("PostStartContainer", pid=os.getpid(), state=api.State.RUNNING)
    await asyncio.sleep(0.05)
    known = node.known.get("c1")
    assert (known.managed, known.pid, known.state) == (False, os.getpid(), api.State.RUNNING)


async def test_a_spec_that_came_too_late_is_told(tmp_path):
    """The spec names the supervisor, the process never becomes it: plain, with a reason."""
    async with connected(tmp_path, verify_timeout=0.02) as node:
        node.records.add("c1")
        await node.event("PostCreateContainer")
        await node.event("PostStartContainer", pid=os.getpid(), state=api.State.RUNNING)
        await node.until(managed=False, reason=plugin.RUNS_PLAIN)


async def test_a_container_that_ends_at_once_is_not_called_plain(node):
    """Its process is gone before it could be looked at: nothing is known, nothing is claimed."""
    node.records.add("c1")
    await node.event("PostCreateContainer")
    await node.event("PostStartContainer", pid=2**22 + 1, state=api.State.RUNNING)
    await asyncio.sleep(0.05)
    assert node.known.get("c1").reason == ""


async def test_stop_and_remove_are_taken_in(node):
    """Dead has no pid, whatever the event says; removed is forgotten; unknown ids are fine."""
    node.records.add("c1")
    await node.event("PostCreateContainer")
    await node.event("PostStartContainer", pid=os.getpid(), state=api.State.RUNNING)
    await node.event("StopContainer", pid=os.getpid(), state=api.State.RUNNING)
    known = node.known.get("c1")
    assert (known.state, known.pid) == (api.State.STOPPED, 0)
    await node.event("RemoveContainer")
    await node.event("RemoveContainer")
    await node.event("StopContainer", "never-heard-of")
    assert list(node.known) == []


async def test_a_short_life_makes_the_next_one_plain_and_the_one_after_managed(node):
    """The breaker, through the events of three lives of one container of a pod."""
    for container_id in ("c1", "c2", "c3"):
        node.records.add(container_id)
        await node.event("PostCreateContainer", container_id)
        await node.event("StartContainer", container_id)
        await node.event("StopContainer", container_id)
    assert [written for written, _ in node.records.written] == ["c1", "c3"]
    assert "its last life ended 0." in node.known.get("c2").reason
    assert "allow-io-uring" in node.known.get("c2").reason


@pytest.mark.parametrize("annotation", ["allow-io-uring", "disable-checkpointing"])
async def test_who_had_io_uring_is_not_told_of_it(node, annotation):
    """It had what it wanted, so that something else ended it."""
    wanted = WANTED | {f"zeropod.ctrox.dev/{annotation}": "true"}
    for container_id in ("c1", "c2"):
        node.records.add(container_id)
        await node.event("PostCreateContainer", container_id, annotations=wanted)
        await node.event("StartContainer", container_id, annotations=wanted)
        await node.event("StopContainer", container_id, annotations=wanted)
    assert "its last life ended 0." in node.known.get("c2").reason
    assert "io_uring" not in node.known.get("c2").reason


async def test_a_short_life_that_ended_well_changes_nothing(node):
    """An init container or a job is done soon; containerd is asked until it knows how it ended."""
    for container_id in ("c1", "c2"):
        node.records.add(container_id)
        node.records.exit_codes[container_id] = None
        await node.event("PostCreateContainer", container_id)
        await node.event("StartContainer", container_id)
        await node.event("StopContainer", container_id)
        node.records.exit_codes[container_id] = 0
        async with asyncio.timeout(30):
            while node.plugin._breaker.reason("u1", "web"):
                await asyncio.sleep(0.005)
    assert [written for written, _ in node.records.written] == ["c1", "c2"]


async def test_a_container_that_was_created_as_we_connected_has_its_reason(node):
    """Its creation was never told, and it is in no list: the first event is its start."""
    node.records.add("c1")
    await node.event("StartContainer", pid=os.getpid())
    await node.event("PostStartContainer", pid=os.getpid(), state=api.State.RUNNING)
    await node.until(reason=plugin.CREATED_WITHOUT_US)


async def test_explanations_leave_room_for_those_who_wait(tmp_path):
    """A containerd that hangs answers some of the old containers late, and a new one in time."""
    pods = [api.PodSandbox(id="p1", name="pod", namespace="ns", uid="u", annotations=WANTED)]
    listed = [api.Container(id=f"c{number}", pod_sandbox_id="p1", state=3) for number in range(20)]
    async with connected(tmp_path, pods=pods, listed=listed) as node:
        async with asyncio.timeout(30):
            while not all(container.reason for container in node.known):
                await asyncio.sleep(0.005)
        assert node.records.most_reading == plugin.EXPLAINED_AT_ONCE


async def test_a_pod_that_is_gone_is_forgotten(node):
    """The breaker keeps nothing of a removed pod."""
    node.records.add("c1")
    await node.event("PostCreateContainer")
    await node.event("StartContainer")
    await node.event("StopContainer")
    await node.event("RemovePodSandbox")
    node.records.add("c2")
    await node.event("PostCreateContainer", "c2")
    assert node.known.get("c2").reason == ""


async def test_a_restarted_plugin_learns_everything_from_synchronize(tmp_path):
    """Wanted containers only; why one is plain is found out from its spec."""
    pods = [
        api.PodSandbox(id="p1", name="pod", namespace="ns", uid="u", annotations=WANTED),
        api.PodSandbox(id="p2", name="other", namespace="ns", uid="v"),
    ]
    listed = [
        api.Container(id="c1", pod_sandbox_id="p1", name="web", state=3, pid=os.getpid()),
        api.Container(id="c2", pod_sandbox_id="p2", name="web", state=3, pid=os.getpid()),
        api.Container(id="c3", pod_sandbox_id="unknown", name="web", state=3),
    ]
    async with connected(tmp_path, pods=pods, listed=listed) as node:
        assert [container.id for container in node.known] == ["c1"]
        await node.until(reason=plugin.CREATED_WITHOUT_US, managed=False)
        assert node.records.written == []
        await node.runtime.call("Synchronize", api.SynchronizeRequest(), api.SynchronizeResponse)
        assert list(node.known) == []


async def test_a_plain_container_found_at_start_has_its_own_reason(tmp_path):
    """A container that would have been refused says so even after a restart of the plugin."""
    pods = [api.PodSandbox(id="p1", name="pod", uid="u", annotations=WANTED)]
    async with connected(tmp_path) as node:
        node.records.add("c1", terminal=True)
        listed = [api.Container(id="c1", pod_sandbox_id="p1", state=3, pid=os.getpid())]
        everything = api.SynchronizeRequest(pods=pods, containers=listed)
        await node.runtime.call("Synchronize", everything, api.SynchronizeResponse)
        async with asyncio.timeout(30):
            while "tty" not in node.known.get("c1").reason:
                await asyncio.sleep(0.005)


@pytest.mark.parametrize("seed", range(6))
async def test_whatever_was_heard_of_it_a_running_container_has_a_reason(tmp_path, seed):
    """Events that are missed, repeated or late, and lists between them: none leaves it unmanaged without a word."""
    chance = random.Random(seed)
    pods = [api.PodSandbox(id="p1", name="pod", namespace="ns", uid="u1", annotations=WANTED)]
    mount = api.Mount(destination="/.zeropod", source=str(tmp_path))
    started = []
    async with connected(tmp_path, verify_timeout=0.02) as node:
        for number in range(20):
            found = {"id": f"c{number}", "name": "web", "pod_sandbox_id": "p1", "pid": os.getpid()}
            stored = {"args": ["sh"]}
            if chance.random() < 0.3:
                stored = {"args": injection.supervised(["sh"]), "mounts": [mount]}
                stored["annotations"] = {injection.MARK: "[]"}
            node.records.add(f"c{number}")
            for event in ("PostCreateContainer", "StartContainer", "PostStartContainer"):
                state = api.State.RUNNING if event == "PostStartContainer" else api.State.CREATED
                told = api.Container(**found | stored, state=state)
                if state == api.State.RUNNING:
                    started.append(told)
                if chance.random() < 0.7:
                    request = api.EventRequest(pod=pods[0], container=told)
                    await node.runtime.call(event, request)
                elif chance.random() < 0.5:
                    everything = api.SynchronizeRequest(pods=pods, containers=started)
                    await node.runtime.call("Synchronize", everything, api.SynchronizeResponse)
        running = [one.id for one in node.known if one.state == api.State.RUNNING]
        assert running
        async with asyncio.timeout(30):
            while not all(node.known.get(name).reason for name in running):
                await asyncio.sleep(0.005)
