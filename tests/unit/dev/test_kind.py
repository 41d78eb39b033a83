"""Tests on kind: what they need, and what they do with docker, kind and the cluster."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from e2e import run as script

ROOT = Path(__file__).parents[3]

SCRIPT = ROOT / "tests/e2e/run.py"

#: Notes how it was called, and with which cluster.
FAKE = """\
#!/bin/sh
echo "${0##*/} $*" >> "$NOTES"
if [ "$1 $2" = "get clusters" ]; then echo "$CLUSTERS"; fi
if [ "$1" = "$FAILING" ]; then exit 1; fi
"""

Run = Callable[..., tuple[int, list[str]]]


def run_script(env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Runs it; with --version pytest runs no test."""
    command = [sys.executable, str(SCRIPT), "--version"]
    return subprocess.run(command, env=env, capture_output=True, text=True, check=False)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Run it with programs that only note their calls; its status, and the calls."""
    for name in ("kubectl", "kind", "docker"):
        (tmp_path / name).write_text(FAKE)
        (tmp_path / name).chmod(0o755)
    notes = tmp_path / "notes"

    def run(**env: str) -> tuple[int, list[str]]:
        notes.write_text("")
        done = run_script({"PATH": str(tmp_path), "NOTES": str(notes), **env})
        return done.returncode, notes.read_text().splitlines()

    return run


def test_what_is_missing_is_named() -> None:
    """Without the tools it ends at once, with each of them, where it is had, and what does without."""
    done = run_script({"PATH": "/nonexistent"})

    assert done.returncode == 1
    for name in ("kubectl", "kind", "docker"):
        assert f"this needs {name}: https://" in done.stderr
    assert "dev/test --tier cluster" in done.stderr


def test_a_docker_without_its_daemon_is_told(run: Run, tmp_path: Path) -> None:
    """And nothing is made."""
    status, calls = run(FAILING="info")

    assert status == 1
    assert calls == ["docker info"]


def test_it_does_what_getting_started_says(run: Run) -> None:
    """The document's commands, with a name and a configuration more; and what was made is removed."""
    text = (ROOT / "docs/getting-started.md").read_text(encoding="utf-8")
    block = re.findall(r"^```console\n(.*?)^```", text, re.MULTILINE | re.DOTALL)[0]
    documented = [line.removeprefix("$ ") for line in block.splitlines()]

    status, calls = run()

    assert status == 0
    assert len(documented) == 3
    for command in documented:
        assert [call for call in calls if call.startswith(command)], command
    made = next(call for call in calls if call.startswith("kind create cluster"))
    assert f"--config {SCRIPT.parent / 'kind.yaml'}" in made
    assert calls[-1] == "kind delete cluster --name zeropod-e2e"


@pytest.mark.parametrize("failing", ["create", "build", "load"])
def test_a_cluster_that_was_made_is_removed_whatever_fails(run: Run, failing: str) -> None:
    """Also one that did not come up."""
    status, calls = run(FAILING=failing)

    assert status != 0
    assert calls[-1] == "kind delete cluster --name zeropod-e2e"


def test_a_cluster_of_that_name_is_used_and_stays(run: Run) -> None:
    """Somebody has made it."""
    status, calls = run(KIND_CLUSTER_NAME="mine", CLUSTERS="other\nmine")

    assert status == 0
    assert "kind export kubeconfig --name mine" in calls
    assert not [call for call in calls if "create" in call or "delete" in call]


def test_the_cluster_of_a_kubeconfig_is_taken_as_it_is(run: Run) -> None:
    """Neither docker nor kind is asked for anything; with a name besides, it is where kind writes."""
    assert run(KUBECONFIG="/nowhere") == (0, [])

    status, calls = run(KUBECONFIG="/nowhere", KIND_CLUSTER_NAME="new")

    assert status == 0
    assert calls[-1] == "kind delete cluster --name new"


def test_what_tests_start_finds_the_checkout(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of ours is installed where tox runs them, and its Python does not look into the working directory."""
    seen = {}

    def started(words: list[str], *, env: dict[str, str], **_: object) -> object:
        seen.update(env)
        return subprocess.CompletedProcess(words, 0)

    monkeypatch.setattr(script.subprocess, "run", started)

    assert script.tests([], {"KUBECONFIG": "/nowhere"}) == 0
    assert seen == {"KUBECONFIG": "/nowhere", "PYTHONPATH": str(ROOT)}
