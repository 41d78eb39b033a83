"""Who has a pid that the application needs."""

import os

import pytest

from checkpointer import pids, processes


@pytest.mark.parametrize(
    ("text", "taken"),
    [
        ("Error (criu/cr-restore.c:1237): Can't fork for 6: File exists", True),
        ("     8: Error (criu/pie/restorer.c:2071): Unable to create a thread: -17", True),
        ("Error (criu/pie/restorer.c:2071): Unable to create a thread: -11", False),
        ("Error (criu/files-reg.c:329): Can't link x: File exists", False),
    ],
)
def test_criu_tells_that_a_pid_is_taken(text: str, taken: bool) -> None:
    """And not that anything else exists."""
    assert pids.tells_taken(["Warn  (x.c:1): y", text]) is taken


@pytest.mark.parametrize(
    ("text", "few"),
    [
        (
            "Error (criu/cr-restore.c:1237): Can't fork for 6: Resource temporarily unavailable",
            True,
        ),
        ("Error (criu/pie/restorer.c:2071): Unable to create a thread: -11", True),
        ("Error (criu/pie/restorer.c:2071): Unable to create a thread: -17", False),
    ],
)
def test_criu_tells_that_there_may_be_no_more_tasks(text: str, few: bool) -> None:
    """A limit that was hit in the middle, after there had been room."""
    assert pids.tells_few([text]) is few


def test_a_taker_is_named() -> None:
    """With its pid out here, its name, and the pid that it has in there."""
    own = os.getpid()
    vpid = processes.vpid(own)
    found = pids.takers(own, {vpid, 2**22 + 1})
    assert [(taker.pid, taker.vpid) for taker in found] == [(own, vpid)]
    assert str(found[0]) == f"process {own} ({processes.comm(own)}) is pid {vpid} in the container"
    assert pids.takers(own, {2**22 + 1}) == []
