"""What is written about failures is what there is."""

import re
from pathlib import Path

from checkpointer.kinds import Kind

DOCS = Path(__file__).parents[3] / "docs"
TEXT = (DOCS / "failures.md").read_text()


def test_every_kind_has_its_line():
    """And none is written about that does not exist."""
    assert set(re.findall(r"^\| `([a-z-]+)` \|", TEXT, re.MULTILINE)) == {*map(str, Kind)}


def test_every_metric_that_is_named_exists():
    """As the generated list of metrics has it."""
    known = set(re.findall(r"`(zeropod_\w+)`", (DOCS / "metrics.md").read_text()))

    assert {*re.findall(r"`(zeropod_\w+)`", TEXT)} <= known


def test_every_flag_that_is_named_exists():
    """With the name that the daemon's command line has for it."""
    settings = (DOCS.parent / "checkpointer" / "settings.py").read_text()

    for flag in re.findall(r"`--([a-z-]+)`", TEXT):
        assert f"    {flag.replace('-', '_')}: " in settings
