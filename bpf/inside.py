"""A function inside a namespace, on a thread of its own that ends with it: no other work may ever run in there."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

from bpf import syscall

T = TypeVar("T")


def call(fd: int, kind: int, function: Callable[[], T]) -> T:
    """Return `function()` as called in the namespace behind a descriptor.

    Args:
        fd: the namespace.
        kind: of which kind it is, e.g. `syscall.CLONE_NEWNET`.
        function: called without arguments; what it raises is raised here.

    Raises:
        OSError: the namespace cannot be entered.
    """
    outcome: list[T] = []
    failure: list[BaseException] = []

    def inside() -> None:
        try:
            syscall.setns(fd, kind)
            outcome.append(function())
        except BaseException as error:  # noqa: BLE001 - raised again in the caller's thread
            failure.append(error)

    thread = threading.Thread(target=inside, name=f"inside-{getattr(function, '__name__', '')}")
    thread.start()
    thread.join()
    if failure:
        raise failure[0]
    return outcome[0]
