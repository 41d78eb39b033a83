"""CPU limits that are lifted for a restore are put back, whatever happens in between."""

import json
import os
from pathlib import Path

import pytest

from checkpointer.cgroups import Cgroups
from checkpointer.unthrottled import Unthrottled

LIMIT = "10000 100000"


@pytest.fixture
def pod(tmp_path: Path) -> Path:
    """A pod with a limit and two containers, one with a limit."""
    root = tmp_path / "pod"
    for directory, limit in ((root, LIMIT), (root / "a", LIMIT), (root / "b", "max 100000")):
        directory.mkdir()
        (directory / "cpu.max").write_text(f"{limit}\n")
    return root


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    return tmp_path / "cpu.max.json"


def shown(pod: Path) -> list[str]:
    """The limits of the pod and its containers."""
    return [(pod / name / "cpu.max").read_text().split()[0] for name in ("", "a", "b")]


BEFORE = ["10000", "10000", "max"]


def test_container_and_pod_have_no_limit_for_a_while(pod: Path, journal: Path) -> None:
    """Either alone goes on throttling. Before anything is lifted it is written down."""
    limits = Unthrottled(journal)
    with limits.lifted(Cgroups({}, pod / "a")):
        assert shown(pod) == ["max", "max", "max"]
        noted = json.loads(journal.read_text())
        assert noted == {str(pod / "cpu.max"): LIMIT, str(pod / "a" / "cpu.max"): LIMIT}
    assert shown(pod) == BEFORE
    assert not journal.exists()


def test_the_last_of_a_pod_puts_its_limit_back(pod: Path, journal: Path) -> None:
    """Two containers may wake at once, and one be done while the other is not."""
    limits = Unthrottled(journal)
    first, second = (limits.lifted(Cgroups({}, pod / name)) for name in "ab")
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert shown(pod) == ["max", "10000", "max"]
    assert list(json.loads(journal.read_text())) == [str(pod / "cpu.max")]
    second.__exit__(None, None, None)
    assert shown(pod) == BEFORE
    assert not journal.exists()


def test_a_restore_that_fails_leaves_no_limit_lifted(pod: Path, journal: Path) -> None:
    """Nor does any other mistake."""
    with pytest.raises(ZeroDivisionError), Unthrottled(journal).lifted(Cgroups({}, pod / "a")):
        raise ZeroDivisionError
    assert shown(pod) == BEFORE


def test_a_successor_puts_back_what_a_dead_daemon_had_lifted(pod: Path, journal: Path) -> None:
    """Of cgroups that are still there; the journal goes with it."""
    gone = pod.parent / "gone"
    dead = Unthrottled(journal).lifted(Cgroups({}, pod / "a"))
    dead.__enter__()
    noted = json.loads(journal.read_text())
    journal.write_text(json.dumps({**noted, str(gone / "cpu.max"): LIMIT}))
    Unthrottled(journal)
    assert shown(pod) == BEFORE
    assert not journal.exists()
    assert not gone.exists()


@pytest.mark.parametrize("text", ["", "{", "[1"])
def test_a_damaged_journal_stops_nobody(journal: Path, text: str) -> None:
    """The daemon starts, and writes a new one when it has something to write."""
    journal.write_text(text)
    Unthrottled(journal)
    assert not journal.exists()


def test_a_limit_that_somebody_sets_meanwhile_stays(pod: Path, journal: Path) -> None:
    """A pod may be resized in place at any moment."""
    with Unthrottled(journal).lifted(Cgroups({}, pod / "a")):
        (pod / "a" / "cpu.max").write_text("20000 100000\n")
    assert shown(pod) == ["10000", "20000", "max"]


def test_what_cannot_be_written_down_is_not_lifted(pod: Path, journal: Path) -> None:
    """The restore takes longer, that is all."""
    limits = Unthrottled(journal.parent / "missing" / "journal")
    with limits.lifted(Cgroups({}, pod / "a")):
        assert shown(pod) == BEFORE
    assert shown(pod) == BEFORE


def test_a_container_that_ends_meanwhile_is_no_failure(pod: Path, journal: Path) -> None:
    """Its cgroup is gone; the pod's is put back."""
    with Unthrottled(journal).lifted(Cgroups({}, pod / "a")):
        (pod / "a" / "cpu.max").unlink()
        os.rmdir(pod / "a")
    assert (pod / "cpu.max").read_text().split()[0] == "10000"


def test_version_1_is_left_alone(pod: Path, journal: Path) -> None:
    """There the cpu hierarchy is joined when the application runs."""
    with Unthrottled(journal).lifted(Cgroups({"cpu,cpuacct": Path("/c/a")}, pod / "a")):
        assert shown(pod) == BEFORE
