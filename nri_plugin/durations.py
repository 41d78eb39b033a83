"""Go's durations ("1h2m3.5s"), in which annotations are written."""

from __future__ import annotations

import re

_UNITS = {  # nanoseconds; time.ParseDuration takes both the micro sign and the Greek letter
    "ns": 1,
    "us": 10**3,
    "\u00b5s": 10**3,
    "\u03bcs": 10**3,
    "ms": 10**6,
    "s": 10**9,
    "m": 60 * 10**9,
    "h": 3600 * 10**9,
}
_PIECE = re.compile(r"([0-9]*)(?:\.([0-9]*))?(ns|us|\u00b5s|\u03bcs|ms|s|m|h)")
_LONGEST = 2**63 - 1  # a Go duration is an int64 of nanoseconds
_LONGEST_TEXT = 200  # characters; an annotation may have 256 KiB


def parse(text: str) -> float:
    """Return the seconds that `text` says.

    Takes what Go's time.ParseDuration takes, but nothing below zero.

    Raises:
        ValueError: `text` is no duration; the message says what one looks like.
    """
    rest = text.removeprefix("+")
    if rest == "0":
        return 0.0
    total = 0
    position = 0
    while position < len(rest) <= _LONGEST_TEXT:
        piece = _PIECE.match(rest, position)
        if piece is None or not (piece[1] or piece[2]):
            break
        unit = _UNITS[piece[3]]
        fraction = piece[2] or ""
        total += int(piece[1] or "0") * unit + int(fraction or "0") * unit // 10 ** len(fraction)
        position = piece.end()
    if not rest or position < len(rest) or total > _LONGEST:
        raise ValueError('it is no duration; write for example "30s", "5m" or "1h30m"')
    return total / 10**9


def parse_signed(text: str) -> float:
    """Return the seconds that `text` says, below zero too, as Go's time.ParseDuration.

    Raises:
        ValueError: `text` is no duration; the message says what one looks like.
    """
    return -parse(text[1:]) if text[:1] == "-" and text[1:2] != "+" else parse(text)
