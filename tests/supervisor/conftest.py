"""Compiles the supervisor and the zygote once, and starts containers under them."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from supervisor.containers import Container

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
