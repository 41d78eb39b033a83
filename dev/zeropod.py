"""The `zeropod` command from a program's point of view: tests, the demo and the benchmarks ask it."""

from __future__ import annotations

import json
import subprocess
from typing import Any

from dev import patience


class ZeropodError(Exception):
    """The command failed; the message is what it printed."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


def zeropod(*words: str, timeout: float = 120.0) -> Any:
    """Runs `zeropod WORDS -o json` and returns what it printed.

    Raises:
        ZeropodError: it did not exit 0.
    """
    done = subprocess.run(
        ["zeropod", *words, "-o", "json"],
        capture_output=True,
        text=True,
        timeout=patience.seconds(timeout),
        check=False,
    )
    if done.returncode:
        raise ZeropodError(done.stderr.strip(), done.returncode)
    return json.loads(done.stdout)


def info(reference: str) -> dict[str, Any]:
    """What `zeropod list` knows of one container."""
    found = zeropod("list", reference)
    if len(found) != 1:
        raise ZeropodError(f"{reference}: {len(found)} containers", 3)
    return dict(found[0])


def reach(reference: str, state: str, timeout: float = 30.0) -> dict[str, Any]:
    """Waits until a container is in a state.

    Raises:
        TimeoutError: it is not; the message holds `zeropod why`.
    """
    found: dict[str, Any] = {}

    def reached() -> bool:
        try:
            found.update(info(reference))
        except ZeropodError as error:
            found.update(state=f"none ({error})")
        return bool(found["state"] == state)

    try:
        patience.until(reached, timeout, pause=0.05)
    except TimeoutError as error:
        message = f"{reference} is {found['state']}, not {state}: {_why(reference)}"
        raise TimeoutError(message) from error
    return found


def _why(reference: str) -> str:
    try:
        return str(zeropod("why", reference)[0]["text"])
    except ZeropodError as error:
        return str(error)
