"""The cluster, as somebody with a kubeconfig sees it: everything here goes through `kubectl`."""

from __future__ import annotations

import contextlib
import json
import subprocess
from collections.abc import Iterator, Sequence
from typing import Any

from dev import patience


class KubectlError(AssertionError):
    """It failed; the message is the command and what it printed."""


def run(*words: str, stdin: str = "", fast: float = 60.0) -> str:
    """What it printed.

    Args:
        words: of its command line.
        stdin: what it reads.
        fast: seconds after which an idle machine has failed.
    """
    try:
        done = subprocess.run(
            ["kubectl", *words],
            input=stdin,
            capture_output=True,
            text=True,
            timeout=patience.seconds(fast),
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise KubectlError(f"kubectl {' '.join(words)}: {error}") from error
    if done.returncode:
        raise KubectlError(f"kubectl {' '.join(words)}: {done.stdout}{done.stderr}")
    return done.stdout


def get(*words: str) -> Any:
    """Objects as the API has them."""
    return json.loads(run("get", *words, "-o", "json"))


def items(*words: str) -> list[Any]:
    """The same for a list."""
    return list(get(*words)["items"])


def exists(*words: str) -> bool:
    """Whether there is such an object."""
    return bool(run("get", *words, "--ignore-not-found", "-o", "name").strip())


def apply(*objects: Any) -> None:
    """Makes objects, or changes them."""
    run(
        "apply",
        "-f",
        "-",
        stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": objects}),
    )


def until(done: Any, what: str, fast: float = 60.0) -> Any:
    """Waits for something and returns it; while the API does not answer it is not so.

    Raises:
        AssertionError: it never came.
    """
    found: Any = None
    problem = ""

    def asked() -> Any:
        nonlocal found, problem
        try:
            found, problem = done(), ""
        except (KubectlError, KeyError, IndexError) as error:
            found, problem = None, f": {error}"
        return found

    try:
        patience.until(asked, fast, pause=0.2)
    except TimeoutError as error:
        raise AssertionError(f"{what}: {error}{problem}") from None
    return found


@contextlib.contextmanager
def background(*words: str) -> Iterator[subprocess.Popen[str]]:
    """A kubectl that runs as long as the context, with its output to be read."""
    command: Sequence[str] = ["kubectl", *words]
    running = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        yield running
    finally:
        running.kill()
        running.communicate()
