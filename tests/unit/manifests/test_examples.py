"""The examples of the documentation, as they are."""

from pathlib import Path

import pytest
import yaml
from rendering import strictly

from nri_plugin import wishes

EXAMPLES = sorted((Path(__file__).parents[3] / "docs/examples").glob("*.yaml"))


def templates(text: str) -> list[dict]:
    return [
        one["spec"]["template"]
        for one in yaml.safe_load_all(text)
        if "template" in one.get("spec", {})
    ]


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_example_is_what_the_api_takes(path):
    """Every field is one that the API has."""
    assert [
        problem
        for one in yaml.safe_load_all(path.read_text())
        for problem in strictly.problems(one)
    ] == []


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_example_sleeps(path):
    """Its containers ask for zeropod, in words that the plugin understands."""
    for one in templates(path.read_text()):
        for container in one["spec"]["containers"]:
            wish = wishes.read(one["metadata"].get("annotations", {}), "", container["name"])

            assert wish is not None
            assert not wish.reason


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_example_names_images_in_full(path):
    """With registry and tag: what runs does not depend on a node's settings, nor on the day."""
    for one in templates(path.read_text()):
        for container in one["spec"]["containers"]:
            registry, _, rest = container["image"].partition("/")
            assert "." in registry
            assert ":" in rest
