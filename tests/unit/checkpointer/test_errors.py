"""Every failure has a word of its own, whoever noticed it."""

import errno

import pytest

from checkpointer import errors
from checkpointer.kinds import Kind


@pytest.mark.parametrize(
    ("error", "lines", "kind"),
    [
        (errors.CriuError("x", hung=True), (), Kind.CRIU_HUNG),
        (errors.CriuError("x", gone=True), (), Kind.CRIU_KILLED),
        (errors.CriuError("x", errno=17), (), Kind.CRIU_FAILED),
        (errors.CriuError("x"), ("Error: write: No space left on device",), Kind.DISK_FULL),
        (errors.CriuError("x"), ("Error: Disk quota exceeded",), Kind.DISK_FULL),
        (errors.CriuError("x", hung=True), ("No space left on device",), Kind.CRIU_HUNG),
        (OSError(errno.ENOSPC, "x"), (), Kind.DISK_FULL),
        (OSError(errno.EDQUOT, "x"), (), Kind.DISK_FULL),
        (OSError(errno.EIO, "x"), (), Kind.INTERNAL),
        (ZeroDivisionError(), (), Kind.INTERNAL),
        (errors.ZygoteError("x"), (), Kind.NO_CRIU),
        (errors.SupervisorError("x"), (), Kind.SUPERVISOR),
        (errors.Refused("x"), (), Kind.UNSUPPORTED),
        (errors.Refused("x", kind=Kind.NO_PORT), (), Kind.NO_PORT),
    ],
)
def test_a_failure_has_its_kind(error, lines, kind):
    """What criu wrote is believed before what it answered."""
    assert errors.kind_of(error, lines) is kind


def test_a_lost_application_is_lost_whatever_was_the_cause():
    """The kind says what became of it."""
    lost = errors.DumpError("x", kind=Kind.CRIU_HUNG, outcome=errors.Outcome.LOST)

    assert lost.kind is Kind.LOST


@pytest.mark.parametrize(
    ("reason", "lines", "told"),
    [
        ("criu went away", (), "criu went away"),
        (
            "criu failed (error 0)",
            (
                "Warn  (infect.c:419): Will restore 7 with interrupted system call",
                "(00.012)     12: Error (files-ext.c:96): Can't dump file 5 of that type",
                "(00.013) Error (cr-dump.c:1720): Dump files (pid: 12) failed with -1",
                "(00.014) Error (cr-dump.c:1975): Dumping FAILED.",
            ),
            "criu failed (error 0): Error (files-ext.c:96): Can't dump file 5 of that type",
        ),
        (
            "Error (x.c:1): no space",
            ("(00.1) Error (x.c:1): no space",),
            "Error (x.c:1): no space",
        ),
        (
            "the disk is read-only",
            (
                "Warn  (infect.c:419): Will restore 7 with interrupted system call",
                "Error (cr-service.c:235): RPC client reported script error",
                "Error (action-scripts.c:156): One of more action scripts failed",
                "Error (cr-dump.c:1975): Dumping FAILED.",
            ),
            "the disk is read-only",
        ),
    ],
)
def test_of_what_criu_says_the_cause_is_told(reason, lines, told):
    """Not its last line, which only says that it failed; nothing where the cause is ours."""
    assert str(errors.DumpError(reason, lines)) == told
