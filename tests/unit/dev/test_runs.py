"""Which tests run where."""

from __future__ import annotations

from dev.lib import runs


def test_parts_are_all_of_it() -> None:
    """Dealt out to three nodes, each has its name and its share; undivided it is the one run again."""
    one = runs.Run("node", expression="both")
    three = runs.parts(one, 3)
    assert [run.name for run in three] == ["node 1/3", "node 2/3", "node 3/3"]
    assert three[1].options() == ["-m", "both", "--part", "2/3"]
    assert runs.undivided([*three, runs.Run("other")]) == [one, runs.Run("other")]


def test_names_tell_runs_apart() -> None:
    """A result's name says which run of a tier it is."""
    for tier in (runs.SUPERVISOR, runs.NODE, runs.BOTH, runs.MACHINES, runs.ALL_MACHINES):
        assert len({run.name for run in tier}) == len(tier)


def test_every_stock_kernel_is_tried_with_every_change() -> None:
    """The quick run of the vm tier boots both kernels, and `--all` leaves out no test of either."""
    assert {run.kernel for run in runs.MACHINES} == {"trixie", "bookworm"}
    whole = [run for run in runs.undivided(runs.ALL_MACHINES) if not run.expression]
    assert {run.kernel for run in whole} == {"trixie", "bookworm"}
