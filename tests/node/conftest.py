"""Tests in here run inside a dev node: on its containerd, with its plugin and daemon."""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from node import criu_lab, kubelets, leaks
from node.clients import Sleeper, Sleepers
from node.plugins import Plugin

from checkpointer.cgroups import Slice
from checkpointer.images import Store
from checkpointer.zygote import Bundle, Zygotes
from dev import cgroups, cri, patience
from dev.runtime import SOCKET
from ttrpc import messages

HERE = Path(__file__).parent
BUNDLE = Path("/opt/zeropod/criu")

#: Set by the node's PID 1: nothing in this folder makes sense elsewhere.
PLAN = Path("/run/node/plan.json")

CAP_SYS_RESOURCE = 24  # linux/capability.h


STORE = messages.schema(
    "containerd.services.containers.v1",
    {
        "Timestamp": [(1, "seconds", "int64"), (2, "nanos", "int32")],
        "Any": [(1, "type_url", "string"), (2, "value", "bytes")],
        "Container": [
            (1, "id", "string"),
            (5, "spec", "Any"),
            (8, "created_at", "Timestamp"),
            (9, "updated_at", "Timestamp"),
        ],
        "GetContainerRequest": [(1, "id", "string")],
        "GetContainerResponse": [(1, "container", "Container")],
    },
)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Tests are dealt out to several nodes, which run at once."""
    parser.addoption("--part", default="1/1", help="2/3: every third test, from the second on")


@pytest.hookimpl(trylast=True)  # after `-m` and `-k`
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skips what makes no sense here, and gives each test the time that this machine may need."""
    usual = float(config.getini("timeout"))
    for item in items:
        if not item.path.is_relative_to(HERE):
            continue
        if not PLAN.exists():
            # `dev/test` does not allow that skip.
            item.add_marker(pytest.mark.skip(reason="runs inside a node: dev/test --tier node"))
        if item.get_closest_marker("vm") and not whole_machine():
            item.add_marker(
                pytest.mark.skip(reason="needs a machine of its own: dev/test --tier vm")
            )
        mark = item.get_closest_marker("timeout")
        limit = patience.seconds(mark.args[0] if mark else usual)
        item.add_marker(pytest.mark.timeout(limit), append=False)
    part, parts = map(int, config.getoption("part").split("/"))
    mine = items[part - 1 :: parts]
    config.hook.pytest_deselected(items=[item for item in items if item not in set(mine)])
    items[:] = mine


@functools.cache
def whole_machine() -> bool:
    """Whether the kernel is as people have it: cgroup v2, no capability withheld from root."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    effective = int(status.partition("CapEff:")[2].split()[0], 16)
    return cgroups.unified() and bool(effective >> CAP_SYS_RESOURCE & 1)


@pytest.fixture(scope="session")
def runtime() -> Iterator[cri.Runtime]:
    """The connection to containerd that all pods share."""
    connection = cri.Runtime()
    yield connection
    connection.close()


@pytest.fixture
def pods(runtime: cri.Runtime, request: pytest.FixtureRequest) -> Iterator[Callable[..., cri.Pod]]:
    """Starts pods (arguments of `cri.Pod`; the name may be left out) and removes them afterwards."""
    # The test before may have ended the plugin or containerd: a pod made too early would run unmanaged.
    cri.until(plugin_serves, 30)
    numbers = itertools.count()
    started: list[cri.Pod] = []
    # A host name: letters, digits, hyphens.
    base = "".join(c if c.isalnum() else "-" for c in request.node.name.lower())[:40].strip("-")

    def start(name: str = "", **described: Any) -> cri.Pod:
        pod = cri.Pod(name or f"{base}-{next(numbers)}", runtime=runtime, **described)
        started.append(pod)
        return pod.start()

    yield start
    for pod in reversed(started):
        pod.remove()


def plugin_serves() -> bool:
    """Whether the plugin is connected to the runtime and knows its containers."""
    unix = Path("/proc/net/unix").read_text(encoding="utf-8", errors="replace")
    # Num RefCount Protocol Flags Type St Inode Path; state 03 is connected.
    connected = any(
        line.split()[5] == "03" for line in unix.splitlines() if line.endswith("/nri/nri.sock")
    )
    log = Path("/var/log/node/plugin.log").read_text(encoding="utf-8", errors="replace")
    return connected and log.rfind("nri.synchronized") > log.rfind("nri.disconnected")


@pytest.fixture
def pod(pods: Callable[..., cri.Pod]) -> cri.Pod:
    """A pod without annotations."""
    return pods()


@pytest.fixture
def sleepers(pods: Callable[..., cri.Pod]) -> Iterator[Sleepers]:
    """Managed pods; none of them may have been harmed when the test is over."""
    started = Sleepers(pods)
    yield started
    started.check()


@pytest.fixture
def talker(sleepers: Sleepers) -> Sleeper:
    """A pod that runs servers/talker.py."""
    return sleepers.talker()


@pytest.fixture(scope="module")
def kubelet() -> Iterator[kubelets.Kubelet]:
    """One that the daemon knows."""
    with kubelets.heard() as one:
        yield one


@pytest.fixture
def plugin() -> Iterator[Plugin]:
    """The plugin, running again afterwards whatever the test does."""
    running = Plugin()
    yield running
    if running.HOLD.exists():
        running.back()


@pytest.fixture
def stored() -> Iterator[Callable[[cri.Container], Any]]:
    """Returns containerd's record of a container."""
    channel = grpc.insecure_channel(SOCKET, options=[("grpc.default_authority", "localhost")])
    get = channel.unary_unary(
        "/containerd.services.containers.v1.Containers/Get",
        request_serializer=messages.encode,
        response_deserializer=STORE.GetContainerResponse.FromString,
    )

    def read(container: cri.Container) -> Any:
        request = STORE.GetContainerRequest(id=container.id)
        metadata = (("containerd-namespace", "k8s.io"),)
        return get(request, metadata=metadata, timeout=10).container

    yield read
    channel.close()


@pytest.fixture
def zeropod() -> Callable[..., cri.Result]:
    """Runs the `zeropod` command of the node."""

    def run(*words: str, timeout: float = 60.0) -> cri.Result:
        done = subprocess.run(
            ["zeropod", *words], capture_output=True, text=True, timeout=timeout, check=False
        )
        return cri.Result(done.returncode, done.stdout, done.stderr)

    return run


@pytest.fixture(autouse=True, scope="module")
def nothing_left_of_the_module(runtime: cri.Runtime) -> Iterator[None]:
    """The same for what the tests of a file share."""
    with leaks.nothing_left(runtime):
        yield


@pytest.fixture(autouse=True)
def nothing_left(runtime: cri.Runtime, nothing_left_of_the_module: None) -> Iterator[None]:
    """After each test the node is as it was: nothing is left of its pods, asleep or awake."""
    with leaks.nothing_left(runtime):
        yield


# --- the checkpoint engine without a daemon ---


@pytest.fixture(scope="session")
def zygotes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Zygotes]:
    """Zygotes of our own, ended afterwards."""
    slice_ = Slice.ensure("zeropod-engine.slice")
    own = Zygotes(Bundle.at(BUNDLE), tmp_path_factory.mktemp("run"), slice_)
    own.ensure()
    yield own
    for zygote in (own.swrk, own.lazy):
        os.kill(zygote.pid, signal.SIGKILL)
        os.waitpid(zygote.pid, 0)
    for directory in slice_.directories:
        criu_lab.until(lambda directory=directory: removed(directory))


def removed(directory: Path) -> bool:
    """Remove a cgroup; False while something is left in it."""
    with contextlib.suppress(OSError):
        directory.rmdir()
    return not directory.exists()


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """An empty image store."""
    return Store(tmp_path / "store")


@pytest.fixture
def lab(tmp_path: Path) -> Path:
    """Where containers have their roots."""
    directory = tmp_path / "lab"
    directory.mkdir()
    return directory


@pytest.fixture
def app(lab: Path) -> Iterator[criu_lab.Application]:
    """A running application with open connections to its two processes."""
    application = criu_lab.Application(lab)
    yield application
    application.close()
