"""Each annotation has a node test: the table is held against the marks `@pytest.mark.annotation("name")`."""

import ast
from pathlib import Path

from nri_plugin.annotations import BY_NAME

TESTS = Path(__file__).parents[2] / "node"


def marked():
    """Names in the marks of all node tests."""
    for path in TESTS.glob("test_*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "pytest.mark.annotation":
                yield from (ast.literal_eval(argument) for argument in node.args)


def test_every_annotation_is_shown_by_a_node_test():
    """One that nothing shows may as well not exist; one that no table has is a misspelled mark."""
    shown = set(marked())

    assert not shown - set(BY_NAME)
    assert not set(BY_NAME) - shown
