"""docs/workloads.md promises nothing that no test shows."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]

TEXT = (ROOT / "docs" / "workloads.md").read_text(encoding="utf-8")


def functions(folder: str) -> set[str]:
    """Names of the tests below a folder."""
    return {
        node.name
        for path in (ROOT / "tests" / folder).rglob("test_*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef)
    }


def test_every_named_test_exists() -> None:
    """By name, in tests/node, or in tests/unit where the row says so."""
    named = set(re.findall(r"`(test_\w+)`", TEXT))
    units = set(re.findall(r"unit: `(test_\w+)`", TEXT))
    assert units <= functions("unit")
    assert named - units <= functions("node")


def test_every_row_names_a_test() -> None:
    """What nobody has seen is no line of a table."""
    rows = [line.strip("| ") for line in TEXT.splitlines() if line.startswith("| ")]
    assert [row for row in rows if "`test_" not in row and not row.endswith("shown by")] == []
