"""Rows for people: columns as wide as their widest cell, ages and sizes as kubectl writes them."""

import time
from collections.abc import Sequence
from typing import Any


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Left-aligned columns, three spaces apart, without trailing blanks."""
    lines = [list(header), *[list(row) for row in rows]]
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    return "\n".join(
        "   ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def age(since: float, now: float | None = None) -> str:
    """Time since an epoch time in seconds; `-` for never."""
    if not since:
        return "-"
    seconds = int(max(0.0, (time.time() if now is None else now) - since))
    if seconds < 120:
        return f"{seconds}s"
    if seconds < 7200:
        return f"{seconds // 60}m{seconds % 60}s"
    return f"{seconds // 3600}h{seconds % 3600 // 60}m"


def size(count: int) -> str:
    """Bytes in SI units; `-` for none."""
    if not count:
        return "-"
    for unit, factor in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if count >= factor:
            return f"{count / factor:.1f}{unit}B"
    return f"{count}B"


def milliseconds(value: float) -> str:
    """`9.1 ms`; `-` for none."""
    return f"{value:.1f} ms" if value else "-"


CONTAINERS = (
    "NAMESPACE",
    "POD",
    "CONTAINER",
    "STATE",
    "SINCE",
    "IMAGE",
    "LAST WAKE",
    "CAUSE",
    "ANNOTATIONS",
)


def container(info: Any) -> tuple[str, ...]:
    """One row of `zeropod list` from an Info message."""
    return (
        info.namespace,
        info.pod,
        info.container,
        _state(info),
        age(info.since),
        size(info.image_bytes),
        milliseconds(info.wake_ms),
        info.wake_cause or "-",
        _annotations(info.wishes, info.notes),
    )


def _state(info: Any) -> str:
    if not info.dry_run:
        return str(info.state)
    return f"{info.state} (would {'sleep' if info.would_sleep else 'be awake'})"


def transition(told: Any) -> str:
    """One line of `zeropod watch` from a Transition message."""
    info = told.info
    clock = time.strftime("%H:%M:%S", time.localtime(told.time))
    what = f"{told.before} -> {info.state}"
    if info.dry_run and told.before == info.state == "RUNNING":
        what = f"{info.state}, would {_would(info)}"
    took = info.wake_ms if info.state == "RUNNING" and told.before == "WAKING" else 0.0
    took_ms = f" {milliseconds(took)}" if took else ""
    reason = f": {info.reason}" if info.reason else ""
    return f"{clock} {info.namespace}/{info.pod}/{info.container} {what} ({info.cause}){took_ms}{reason}"


def _would(info: Any) -> str:
    if info.would_sleep:
        return f"sleep and save {size(info.would_save_bytes)}"
    return "not sleep" if info.reason else "wake"


def _annotations(wishes: Sequence[str], notes: Sequence[str]) -> str:
    """What is not the default, and how much `zeropod why` has to say about it."""
    count = f"({len(notes)} note{'s' * (len(notes) > 1)}, see why)" if notes else ""
    return " ".join(filter(None, [*wishes, count])) or "-"
