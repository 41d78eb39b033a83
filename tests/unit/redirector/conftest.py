"""The pinned maps as dictionaries."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest


class Table(dict[Any, Any]):
    """What `bpf.maps.Map` offers, without a kernel."""

    def __iter__(self) -> Iterator[Any]:
        """Iterate over the keys as they are now, as `Map` does."""
        return iter(list(self.keys()))

    def put(self, key: Any, value: Any, *, new: bool = False) -> None:
        """Store a value; with `new`, only if there is none."""
        if new and key in self:
            raise FileExistsError(key)
        self[key] = value

    def drop(self, key: Any) -> None:
        """Remove a key if it is there."""
        self.pop(key, None)


@pytest.fixture
def tables() -> Any:
    """All maps of the datapath, empty."""
    names = (
        *(
            "pods",
            "ports",
            "conns",
            "networks",
            "streams",
            "holds",
            "counts",
            "activity",
            "passing",
            "calls",
        ),
        *("pinged", "pod_names", "hold_names"),
    )
    return SimpleNamespace(**{name: Table() for name in names})
