"""Tests on kind say what they need."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "e2e/run.py"


def test_what_is_missing_is_named() -> None:
    """Without the tools it ends at once, with each of them, where it is had, and what does without."""
    done = subprocess.run(
        [sys.executable, str(SCRIPT)], env={"PATH": "/nonexistent"}, capture_output=True, text=True, check=False
    )  # fmt: skip

    assert done.returncode == 1
    for name in ("kubectl", "kind", "docker"):
        assert f"this needs {name}: https://" in done.stderr
    assert "dev/test --tier cluster" in done.stderr
