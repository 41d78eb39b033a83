"""Nodes of files, and a payload for them."""

import pytest
from unit.installer.fake_nodes import plain


@pytest.fixture
def source(tmp_path):
    """A payload."""
    made = tmp_path / "payload"
    for name, text in (
        ("criu/criu", "elf"),
        ("criu/lib/libc.so.6", "elf"),
        ("container/init", "1"),
        ("container/wake", ""),
    ):
        (made / name).parent.mkdir(parents=True, exist_ok=True)
        (made / name).write_text(text)
    return made


@pytest.fixture
def node(tmp_path):
    made = plain(tmp_path / "node", config="version = 2\n")
    yield made
    made.close()
