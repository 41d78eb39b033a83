"""Output as kubectl's: aligned columns, or JSON, YAML and names for programs."""

import json
from collections.abc import Sequence
from typing import Any

import yaml


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Left-aligned columns, three spaces apart, one line a row; what is empty is `<none>`."""
    lines = [list(header), *[[" ".join(cell.split()) or "<none>" for cell in row] for row in rows]]
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    return "\n".join(
        "   ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def dump(value: Any, form: str) -> str:
    """The same as JSON or YAML."""
    if form == "json":
        return json.dumps(value, indent=2)
    return str(yaml.safe_dump(value, sort_keys=False, allow_unicode=True)).rstrip("\n")


def names(pods: Sequence[str]) -> str:
    """`pod/NAME` a line, each once, for other commands to take."""
    return "\n".join(f"pod/{pod}" for pod in dict.fromkeys(pods))


def clean(text: str) -> str:
    """A text as it may go to a terminal: what came over the network may quote a container."""
    return "".join(
        c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text
    )
