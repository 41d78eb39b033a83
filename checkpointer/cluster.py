"""What a node's containers have to do with the Kubernetes API: nothing, unless a flag asks for it.

What does it, `checkpointer.kubernetes`, is imported only then, and late.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Protocol

from checkpointer.apiview import ApiView
from checkpointer.containers import Record
from checkpointer.declared import Declared


class Cluster(Protocol):
    """What others want of it."""

    def start(self, node: Any) -> None:
        """Begin to follow a node; from its event loop."""

    async def close(self) -> None:
        """Stop."""

    def features(self) -> Mapping[str, str]:
        """What is told to the API, and why not; "" if it is."""

    def pending(self) -> int:
        """How much of that is still to come."""

    def remark(self, record: Record) -> str:
        """What the owner of a container should know; "" if nothing."""

    def declared(self, record: Record) -> Declared | None:
        """What a container's pod declares of it; None if that is not known."""

    def view(self) -> ApiView:
        """What a scrape sees."""

    async def caught_up(self, node: Any, timeout: float) -> bool:
        """Wait until the API knows what the node knows; False if that takes longer."""


@dataclasses.dataclass(frozen=True, slots=True)
class Silent:
    """Nothing is told.

    Attributes:
        reasons: Why not, of each thing that was asked for.
    """

    reasons: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def start(self, node: Any) -> None:
        """There is nothing to do."""

    async def close(self) -> None:
        """Nor to end."""

    def features(self) -> Mapping[str, str]:
        """Nothing of it is on."""
        return self.reasons

    def pending(self) -> int:
        """Nothing is to come."""
        return 0

    def remark(self, _record: Record) -> str:
        """Nothing is known."""
        return ""

    def declared(self, _record: Record) -> Declared | None:
        """Nothing is known."""
        return None

    def view(self) -> ApiView:
        """Nothing of it is on."""
        return ApiView(features=dict.fromkeys(self.reasons, False))

    async def caught_up(self, node: Any, timeout: float) -> bool:
        """There is nothing to wait for."""
        return True
