"""docs/annotations.md."""

from pathlib import Path

from nri_plugin import reference
from nri_plugin.annotations import TABLE

FILE = Path(__file__).parents[3] / "docs" / "annotations.md"


def test_the_reference_is_written_from_the_table():
    """Stale otherwise: `python3 -m nri_plugin.reference > docs/annotations.md` brings it up to date."""
    assert FILE.read_text(encoding="utf-8") == reference.document()


def test_every_annotation_has_its_entry():
    """With its default and an example."""
    text = reference.document()
    for one in TABLE:
        assert f"### `{one.key}`" in text
        assert f"example: `{one.example}`" in text
