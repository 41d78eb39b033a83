"""How `dev/test` counts: no failure, no missing suite and no unlisted skip goes unseen."""

from __future__ import annotations

from pathlib import Path

from dev.lib import report

JUNIT = """<testsuites><testsuite>
<testcase name="a"/><testcase classname="tests.node.test_z" name="b[1]"><failure message="x&#10;y"/></testcase><testcase name="c"><error message="x"/></testcase>
<testcase name="d"><skipped message="needs a moon"/></testcase></testsuite></testsuites>"""


def test_counts_every_kind(tmp_path: Path) -> None:
    """Failures and errors both count as failed; a skip keeps its reason."""
    path = tmp_path / "junit.xml"
    path.write_text(JUNIT)
    found = report.read("unit", path, 1)
    assert (found.passed, found.failed, found.skips, found.problem) == (1, 2, ["needs a moon"], "")
    assert found.failures["tests/node/test_z.py::b[1]"] == "x"
    assert report.total([found, found]) == "2 passed, 4 failed, 2 skipped"


def test_a_suite_without_results_is_a_failure(tmp_path: Path) -> None:
    """A suite that crashed before it wrote anything counts as one failure."""
    found = report.read("node", tmp_path / "junit.xml", 139)
    assert found.problem == "wrote no results (exit status 139)"
    assert report.total([found]) == "0 passed, 1 failed, 0 skipped"


def test_a_crash_after_good_tests_is_a_failure(tmp_path: Path) -> None:
    """A non-zero exit status without a failed test is not taken for success."""
    path = tmp_path / "junit.xml"
    path.write_text("<testsuite><testcase name='a'/></testsuite>")
    assert report.read("unit", path, 3).problem
    assert report.read("unit", path, 1).problem
    assert not report.read("unit", path, 0).problem


def test_what_passes_alone_is_told_apart() -> None:
    """A test that fails twice has failed; one that passes the second time has passed, and is named."""
    first = report.Result("node", passed=7, failed=2, failures={"a": "x", "b": "y"})
    report.absolve(first, report.Result("again", passed=1, failed=1, failures={"b": "z"}))
    assert (first.passed, first.failed, first.failures, first.unsteady) == (
        8,
        1,
        {"b": "z"},
        ["a"],
    )
    assert report.total([first]).endswith("1 of the passed ones only when run again alone")


def test_a_second_run_that_breaks_is_a_failure() -> None:
    """Nothing passes because its second run did not end."""
    first = report.Result("node", failed=1, failures={"a": "x"})
    report.absolve(first, report.Result("again", problem="ended with exit status 124"))
    report.absolve(first, report.Result("again"))
    assert report.total([first]) == "0 passed, 1 failed, 0 skipped"


def test_skips_must_be_listed(tmp_path: Path) -> None:
    """A reason is allowed if a line of the list matches it; comments are no patterns."""
    path = tmp_path / "allowed"
    path.write_text("# all *\nneeds CAP_*: *   # where it is missing\n")
    allowed = report.allowed_skips(path)
    results = [report.Result("unit", skips=["needs CAP_SYS_RESOURCE: uid 1000", "lazy"])]
    assert report.unexplained(results, allowed) == ["lazy"]
