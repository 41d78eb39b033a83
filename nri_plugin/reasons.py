"""Why a container is not managed."""

from __future__ import annotations

from typing import Self


class Reason(str):
    """A sentence for people that carries its stable word for metrics; an empty one is none.

    Attributes:
        kind: the word; reasons of one kind differ only in names and numbers.
    """

    __slots__ = ("kind",)

    kind: str

    def __new__(cls, kind: str, text: str) -> Self:
        """Return the sentence `text`."""
        made = super().__new__(cls, text)
        made.kind = kind
        return made


NONE = Reason("", "")
