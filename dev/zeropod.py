"""The `zeropod` command from a program's point of view: tests, the demo and the benchmarks ask it."""

from __future__ import annotations

import json
import subprocess
import time
from typing import Any


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
        timeout=timeout,
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
    deadline = time.monotonic() + timeout
    found: dict[str, Any] = {}
    while time.monotonic() < deadline:
        try:
            found = info(reference)
        except ZeropodError as error:
            found = {"state": f"none ({error})"}
        if found["state"] == state:
            return found
        time.sleep(0.05)
    try:
        why = zeropod("why", reference)[0]["text"]
    except ZeropodError as error:
        why = str(error)
    message = f"{reference} is {found.get('state')} after {timeout} s, not {state}: {why}"
    raise TimeoutError(message)
