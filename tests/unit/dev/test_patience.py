"""Waiting: one factor for a machine that is slower."""

from __future__ import annotations

import pytest

from dev import patience


def test_what_is_so_is_not_waited_for() -> None:
    """A condition that holds is asked once."""
    asked: list[int] = []
    patience.until(lambda: asked.append(1) or True, 0)
    assert asked == [1]


def test_the_factor_stretches_every_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a machine that is ten times slower a second becomes ten, and the error says so."""
    monkeypatch.setattr(patience, "FACTOR", 10.0)
    assert patience.seconds(3) == 30
    with pytest.raises(TimeoutError, match=r"not so after 0\.5 s"):
        patience.until(lambda: False, 0.05)
