"""Amounts as operators write them on a command line: `512Mi`, `12%`."""

from __future__ import annotations

import re
from typing import Self

_UNITS = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_UNITS |= {"Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30, "Ti": 1 << 40}
_AMOUNT = re.compile(rf"(\d+(?:\.\d+)?)({'|'.join(_UNITS)})")


class Bytes(int):
    """A number of bytes; Kubernetes' units are understood."""

    def __new__(cls, text: str | int) -> Self:
        """Read a number with or without a unit.

        Raises:
            ValueError: it is neither.
        """
        if isinstance(text, int):
            return super().__new__(cls, text)
        match = _AMOUNT.fullmatch(text)
        if match is None:
            raise ValueError(f"{text!r} is not a number of bytes, such as 512Mi")
        return super().__new__(cls, float(match[1]) * _UNITS[match[2]])

    def __str__(self) -> str:
        return size(self)


class Share(float):
    """A part of a whole: below 1, or in percent."""

    def __new__(cls, text: str | float) -> Self:
        """Read a part.

        Raises:
            ValueError: it is none, or more than the whole.
        """
        number = float(text[:-1]) / 100 if isinstance(text, str) and text[-1:] == "%" else text
        share = super().__new__(cls, number)
        if not 0 <= share < 1:
            raise ValueError(f"{text!r} is not a part of a whole, such as 12%")
        return share

    def __str__(self) -> str:
        return f"{100 * self:g}%"


def size(count: float) -> str:
    """A number of bytes for people, in the unit that leaves few digits."""
    for unit in ("Ti", "Gi", "Mi", "Ki"):
        if abs(count) >= _UNITS[unit]:
            return f"{count / _UNITS[unit]:.1f}".removesuffix(".0") + unit
    return f"{count:.0f}"
