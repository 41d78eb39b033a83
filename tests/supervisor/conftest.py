"""Compiles the supervisor and the zygote once, and starts containers under them."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from supervisor.containers import LISTENER, Container, Gate, put_to_sleep, python
from supervisor.zygotes import Bundle, Zygote

Start = Callable[..., Container]

SOURCES = Path(__file__).parents[2] / "supervisor"


@pytest.fixture(scope="session")
def build(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Compiles supervisor/ with extra definitions and returns the directory with the two results."""
    done: dict[str, Path] = {}

    def make(definitions: str = "") -> Path:
        if definitions not in done:
            out = tmp_path_factory.mktemp("supervisor")
            command = ["make", "-s", "-C", SOURCES, f"OUT={out}", f"DEFINES={definitions}"]
            subprocess.run(command, check=True)
            done[definitions] = out
        return done[definitions]

    return make


@pytest.fixture
def container(build: Callable[..., Path], tmp_path: Path) -> Iterator[Callable[..., Container]]:
    """Starts containers and ends them after the test."""
    started: list[Container] = []

    def start(
        *argv: str,
        raw: bool = False,
        before: str = "",
        through: Sequence[str] = (),
        definitions: str = "-DLEASE_SECONDS=1",
        prepare: Callable[[Path], None] = lambda _: None,
        **popen: Any,
    ) -> Container:
        number = len(started)
        root, own = tmp_path / f"root{number}", tmp_path / f"own{number}"
        root.mkdir()
        own.mkdir()
        (own / "init").write_bytes((build(definitions) / "zeropod-init").read_bytes())
        (own / "init").chmod(0o755)
        (own / "wake").touch(0o444)
        prepare(own)
        own.chmod(0o755)  # the container's user has to reach the supervisor
        one = Container(root, own, argv if raw else ("--", *argv), before, through, **popen)
        started.append(one)
        return one

    yield start
    for one in started:
        one.close()


@pytest.fixture
def listener(container: Start) -> Container:
    """A container whose application prints the signals that it gets. Its lease is one second."""
    one = container(*python(LISTENER))
    assert one.line() == "ready"
    one.reach("run")
    return one


@pytest.fixture
def gate(listener: Container) -> Iterator[Gate]:
    """The daemon's mark on the wake file of a container that was put to sleep."""
    one = Gate(listener.wake, Gate.OPEN)
    put_to_sleep(listener)
    yield one
    one.close()


@pytest.fixture(scope="module")
def bundle(build: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The node's criu, today's zygote, and a kernel-feature cache made on the host."""
    path = Path(os.environ.get("ZEROPOD_CRIU_BUNDLE", "/opt/zeropod/criu"))
    zygote = build() / "zygote.so"
    kdat = tmp_path_factory.mktemp("kdat") / "criu.kdat"
    check = Bundle(path, zygote, kdat).command("check")
    # The check itself may fail, over a read-only sysctl say; the cache is written before.
    script = 'ip link set lo up; mount -t tmpfs tmpfs /run; k=$1; shift; "$@" 2>&1; cp /run/criu.kdat $k'
    subprocess.run(["unshare", "-m", "-n", "sh", "-c", script, "sh", kdat, *check], check=True)
    return Bundle(path, zygote, kdat)


@pytest.fixture
def zygote(bundle: Bundle, tmp_path: Path) -> Iterator[Zygote]:
    """A zygote of workers."""
    one = Zygote(bundle, tmp_path / "swrk.sock")
    yield one
    one.close()


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """An empty image directory."""
    path = tmp_path / "images"
    path.mkdir()
    return path
