"""What the daemon hears, whenever it is there."""

import asyncio
import contextlib

import pytest
from google.protobuf import descriptor_pb2

from nri_plugin import api as nri
from nri_plugin import reasons, registry, report
from ttrpc import errors, frames, messages, server

api = messages.schema("zeropod.v1", report.TABLE)


class Daemon:
    """A fake of the daemon's half: keeps what it is told."""

    def __init__(self, path):
        self.path = path
        self.known = {}
        self.requests = []
        self.arrived = asyncio.Event()
        self.gate = asyncio.Event()
        self.gate.set()
        self.server = None

    async def report(self, request, _):
        self.requests.append(request)
        if request.complete:
            self.known = {key: self.known[key] for key in request.present if key in self.known}
        self.known |= {container.id: container for container in request.containers}
        for container_id in request.removed:
            self.known.pop(container_id, None)
        self.arrived.set()
        await self.gate.wait()
        return api.Empty()

    async def start(self):
        services = server.Services()
        services.add(report.SERVICE, report.METHOD, api.ReportRequest, self.report)
        self.server = server.Server(services)
        await self.server.serve_unix(self.path)

    async def stop(self):
        await self.server.close(grace=0)

    async def until(self, condition):
        async with asyncio.timeout(30):
            while not condition():
                self.arrived.clear()
                await self.arrived.wait()


@pytest.fixture
def known():
    return registry.Registry()


@pytest.fixture
async def daemon(tmp_path):
    running = Daemon(tmp_path / "daemon.sock")
    await running.start()
    yield running
    await running.stop()


@contextlib.asynccontextmanager
async def reporting(known, path, *, complete=True):
    synchronized = asyncio.Event()
    if complete:
        synchronized.set()
    running = asyncio.create_task(report.Reporter(known, path, synchronized).run())
    yield synchronized
    running.cancel()
    await asyncio.wait([running])


def container(number, **fields):
    return registry.Container(id=f"c{number}", name="web", state=nri.State.RUNNING, **fields)


async def test_everything_first_then_changes(known, daemon):
    """A connection begins with the complete state; then only what changes or goes is sent."""
    known.put(container(1, pid=11, managed=True, policy={"wishes": ("min-awake=5m",)}))
    async with reporting(known, daemon.path):
        await daemon.until(lambda: "c1" in daemon.known)
        assert daemon.requests[0].complete
        first = daemon.known["c1"]
        assert (first.pid, first.managed, first.state) == (11, True, "running")
        assert list(first.policy.wishes) == ["min-awake=5m"]
        known.put(container(2, reason=reasons.Reason("why", "because")))
        await daemon.until(lambda: "c2" in daemon.known)
        assert (daemon.known["c2"].reason, daemon.known["c2"].kind) == ("because", "why")
        known.change("c1", pid=12)
        known.remove("c2")
        await daemon.until(lambda: set(daemon.known) == {"c1"} and daemon.known["c1"].pid == 12)
        assert not any(request.complete for request in daemon.requests[1:])


async def test_nothing_is_said_before_the_runtime_has_spoken(known, daemon):
    """A restarted plugin knows nothing; a complete report of nothing would be a lie."""
    async with reporting(known, daemon.path, complete=False) as synchronized:
        await asyncio.sleep(0.1)
        assert daemon.requests == []
        synchronized.set()
        await daemon.until(lambda: daemon.requests)


async def test_a_daemon_that_comes_back_hears_everything_again(known, daemon):
    """Whatever happened meanwhile: state is sent, not history."""
    known.put(container(1))
    async with reporting(known, daemon.path):
        await daemon.until(lambda: "c1" in daemon.known)
        await daemon.stop()
        known.remove("c1")
        for number in range(2, 102):
            known.put(container(number))
        daemon.known.clear()
        daemon.requests.clear()
        await daemon.start()
        await daemon.until(lambda: len(daemon.known) == 100)
        assert len(daemon.requests) == 1
        assert daemon.requests[0].complete


async def test_a_slow_daemon_delays_nothing_and_loses_nothing(known, daemon):
    """While a report is under way changes gather by container, not by event."""
    async with reporting(known, daemon.path):
        await daemon.until(lambda: daemon.requests)
        daemon.gate.clear()
        known.put(container(1))
        await daemon.until(lambda: "c1" in daemon.known)
        for pid in range(10_000):
            known.put(container(1, pid=pid))
        daemon.gate.set()
        await daemon.until(lambda: daemon.known["c1"].pid == 9999)
        assert len(daemon.requests) <= 4


async def test_a_daemon_that_is_not_there_is_tried_again(known, tmp_path):
    """From the first moment, without an error and without a delay for anybody."""
    late = Daemon(tmp_path / "late.sock")
    async with reporting(known, late.path):
        known.put(container(1))
        await asyncio.sleep(0.2)
        await late.start()
        await late.until(lambda: "c1" in late.known)
    await late.stop()


async def test_a_daemon_that_refuses_is_tried_again(known, tmp_path):
    """Another version of the daemon may answer with a status; the plugin goes on."""
    answers = iter([errors.TtrpcError(errors.Code.INTERNAL, "no")])
    daemon = Daemon(tmp_path / "s")
    good = daemon.report

    async def moody(request, context):
        for error in answers:
            raise error
        return await good(request, context)

    daemon.report = moody
    await daemon.start()
    async with reporting(known, daemon.path):
        known.put(container(1))
        await daemon.until(lambda: "c1" in daemon.known)
    await daemon.stop()


async def test_a_node_full_of_long_annotations_is_reported_in_parts(known, daemon):
    """Whatever owners of pods write, a report stays below ttRPC's limit; only the last part says that it was all."""
    long = {"notes": ("x" * 10_000,)}
    for number in range(1000):
        known.put(container(number, policy=long))
    async with reporting(known, daemon.path):
        await daemon.until(lambda: len(daemon.known) == 1000)
        *parts, last = daemon.requests
        assert last.complete
        assert not any(part.complete for part in parts)
        assert sorted(last.present) == sorted(daemon.known)
        daemon.requests.clear()
        for number in range(1000):
            known.put(container(number, policy=long, pid=1))
        known.remove("c0")
        await daemon.until(lambda: all(one.pid for one in daemon.known.values()))
        parts += [last, *daemon.requests]
    assert "c0" not in daemon.known
    assert max(len(messages.encode(part)) for part in parts) < frames.SEND_LIMIT / 2


async def test_what_is_not_said_is_not_sent(known, daemon):
    """A daemon of another version can tell a field that it was not sent from one that is zero."""
    known.put(container(1, policy={"wake_on_stop": False}))
    async with reporting(known, daemon.path):
        await daemon.until(lambda: daemon.known)
    assert daemon.known["c1"].policy.HasField("wake_on_stop")
    assert not daemon.known["c1"].policy.HasField("max_request")


def test_both_sides_declare_the_same_messages():
    """Neither package may import the other, so this test keeps their tables equal."""
    daemons = pytest.importorskip("checkpointer.api").m
    for name in report.TABLE:
        ours, theirs = descriptor_pb2.DescriptorProto(), descriptor_pb2.DescriptorProto()
        getattr(api, name).DESCRIPTOR.CopyToProto(ours)
        getattr(daemons, name).DESCRIPTOR.CopyToProto(theirs)
        assert ours == theirs
