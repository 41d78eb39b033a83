"""What is in the product's image."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from dev.lib import host, product

PACKAGES = ("bpf", "checkpointer", "installer", "nri_plugin", "redirector")

SOURCES = [path for package in PACKAGES for path in (host.REPOSITORY / package).rglob("*.py")]

#: As a word of its own, or as the first one of a command in a script.
WORD = r"(?m)(?:[\"']|; |exec |^){}(?:[\"']| [-/\w])"


@pytest.mark.parametrize("program", product.PROGRAMS)
def test_every_program_is_run_by_somebody(program: str) -> None:
    """Who takes the last use of one away takes it out of the image, too."""
    name = {"dash": "sh"}.get(Path(program).name, Path(program).name)
    pattern = re.compile(WORD.format(name))

    assert [path for path in SOURCES if pattern.search(path.read_text(encoding="utf-8"))]
