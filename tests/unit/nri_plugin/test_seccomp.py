"""A system call is taken away from a container, and nothing else."""

from __future__ import annotations

import copy

import pytest

from nri_plugin import seccomp

DENIED = {"names": ["io_uring_setup"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38}

DEFAULT = {
    "defaultAction": "SCMP_ACT_ERRNO",
    "architectures": ["SCMP_ARCH_X86_64"],
    "flags": ["SECCOMP_FILTER_FLAG_LOG"],
    "syscalls": [
        {"names": ["accept", "io_uring_setup", "io_uring_enter"], "action": "SCMP_ACT_ALLOW"},
        {"names": ["io_uring_setup"], "action": "SCMP_ACT_ALLOW", "args": [{"index": 0}]},
        {"names": ["ptrace"], "action": "SCMP_ACT_ALLOW", "args": []},
    ],
}


def test_a_profile_loses_the_call_and_keeps_the_rest() -> None:
    """It stands in one rule only afterwards; no rule is left without a name."""
    before = copy.deepcopy(DEFAULT)
    after = seccomp.without(DEFAULT, [seccomp.IO_URING])
    assert before == DEFAULT
    assert after == {
        **DEFAULT,
        "syscalls": [
            {"names": ["accept", "io_uring_enter"], "action": "SCMP_ACT_ALLOW"},
            {"names": ["ptrace"], "action": "SCMP_ACT_ALLOW", "args": []},
            DENIED,
        ],
    }


def test_taking_it_away_twice_changes_nothing_more() -> None:
    """A spec may be written by two instances of the plugin."""
    once = seccomp.without(DEFAULT, [seccomp.IO_URING])
    assert seccomp.without(once, [seccomp.IO_URING]) == once


@pytest.mark.parametrize("profile", [None, {}])
def test_without_a_profile_everything_else_is_allowed(profile: dict[str, object] | None) -> None:
    """Also to 32-bit programs, which a profile for one architecture would kill."""
    after = seccomp.without(profile, [seccomp.IO_URING], "x86_64")
    assert after["defaultAction"] == "SCMP_ACT_ALLOW"
    assert "SCMP_ARCH_X86" in after["architectures"]
    assert after["syscalls"] == [DENIED]
