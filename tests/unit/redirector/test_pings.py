"""What is a ping, and what only looks like one; the programs in the kernel say the same (tests/node)."""

from __future__ import annotations

import pytest
from fakes.pings import OTHERS, PINGS

from redirector.pings import LONGEST, is_ping


@pytest.mark.parametrize("payload", PINGS.values(), ids=PINGS)
def test_pings(payload: bytes) -> None:
    """One frame that asks or answers, and nothing else."""
    assert is_ping(payload)
    assert len(payload) <= LONGEST


@pytest.mark.parametrize("payload", OTHERS.values(), ids=OTHERS)
def test_others(payload: bytes) -> None:
    """What carries, or may carry, a request."""
    assert not is_ping(payload)
