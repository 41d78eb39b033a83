"""What came out of test suites: counted, and skips held against the list of allowed ones."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Dict, Iterable, List


@dataclass
class Result:
    """One suite."""

    name: str
    passed: int = 0
    failed: int = 0
    failures: Dict[str, str] = field(default_factory=dict)
    """What the failed tests of pytest said, by their names as pytest takes them."""

    unsteady: List[str] = field(default_factory=list)
    """Those that failed beside others and passed alone afterwards; each is a defect, of itself or of the product."""

    skips: List[str] = field(default_factory=list)
    """The reason of each skipped test."""

    seconds: float = 0.0
    problem: str = ""
    """Why it counts as failed although no test of it did, for example because none ran."""


def read(name: str, path: Path, status: int) -> Result:
    """Reads pytest's JUnit file.

    Args:
        name: of the suite.
        path: of the file; it need not be there.
        status: pytest's exit status.
    """
    result = Result(name)
    if not path.exists():
        result.problem = "wrote no results (exit status %d)" % status
        return result
    for case in ET.parse(path).getroot().iter("testcase"):
        skip = case.find("skipped")
        wrong = [child for child in case if child.tag in ("failure", "error")]
        if wrong:
            result.failed += 1
            test = "%s.py::%s" % (case.get("classname", "").replace(".", "/"), case.get("name"))
            result.failures[test] = (wrong[0].get("message") or "").partition("\n")[0]
        elif skip is not None:
            result.skips.append(skip.get("message", ""))
        else:
            result.passed += 1
    # 1: tests failed, counted above. 5: nothing collected, judged by the caller.
    if status not in (0, 1, 5) or (status == 1 and not result.failed):
        result.problem = "ended with exit status %d" % status
    return result


def absolve(first: Result, second: Result) -> None:
    """Counts as passed what failed beside others and passed alone.

    Args:
        first: of the whole suite; changed.
        second: of its failed tests only; if it is not whole, nothing changes.
    """
    if second.problem or second.passed + second.failed < len(first.failures):
        return
    first.unsteady = [test for test in first.failures if test not in second.failures]
    first.failures = second.failures
    first.passed += second.passed
    first.failed = second.failed


def allowed_skips(path: Path) -> List[str]:
    """The patterns of allowed reasons: one a line, `#` begins a comment."""
    lines = [
        line.partition("#")[0].strip() for line in path.read_text(encoding="utf-8").splitlines()
    ]
    return [line for line in lines if line]


def unexplained(results: Iterable[Result], allowed: Iterable[str]) -> List[str]:
    """Reasons of skips that no pattern allows."""
    patterns = list(allowed)
    reasons = {reason for result in results for reason in result.skips}
    return sorted(r for r in reasons if not any(fnmatchcase(r, pattern) for pattern in patterns))


def total(results: Iterable[Result]) -> str:
    """The last line of a test run."""
    results = list(results)
    unsteady = sum(len(result.unsteady) for result in results)
    return "%d passed, %d failed, %d skipped" % (
        sum(result.passed for result in results),
        sum(result.failed + bool(result.problem) for result in results),
        sum(len(result.skips) for result in results),
    ) + (", %d of the passed ones only when run again alone" % unsteady if unsteady else "")
