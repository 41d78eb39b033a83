"""The datapath alone, in namespaces of its own: real packets, no containers."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from node.datapath_lab import (
    Lab,
)

from redirector.datapath import Datapath
from redirector.hold import Hold
from redirector.pod import Pod


@pytest.fixture(scope="module")
def root() -> Iterator[Path]:
    """A place for pins apart from the daemon's."""
    place = Path(f"/sys/fs/bpf/zeropod-test-{os.getpid()}")
    yield place
    shutil.rmtree(place)


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    built = Lab()
    yield built
    built.close()


@pytest.fixture(autouse=True)
def hang_up(lab: Lab) -> Iterator[None]:
    yield
    lab.hang_up()


@pytest.fixture(scope="module")
def datapath(root: Path) -> Datapath:
    # One for all: it lives as long as its process, and a process has 1024 descriptors for select(2).
    return Datapath.open(root)


@pytest.fixture
def pod(lab: Lab, datapath: Datapath) -> Iterator[Pod]:
    yield datapath.attach(lab.pod.pid, "sandbox")
    datapath.forget("sandbox")


@pytest.fixture
def hold(pod: Pod) -> Iterator[Hold]:
    made = pod.hold("container")
    yield made
    made.close()
