"""What is said of transitions, and what is not."""

import pytest

from checkpointer import api
from checkpointer.kubernetes import telling


def told(before, state, **more):
    return telling.tell(before, api.m.Info(container="app", state=state, **more))


@pytest.mark.parametrize(
    ("before", "state", "more", "reason", "warning"),
    [
        ("SLEEPING", "ASLEEP", {}, "ScaledDown", False),
        ("WAKING", "RUNNING", {}, "Running", False),
        ("SLEEPING", "FROZEN", {"reason": "no"}, "Frozen", True),
        ("SLEEPING", "RUNNING", {"reason": "no", "cause": "refused"}, "ScaleDownRefused", True),
        (
            "SLEEPING",
            "RUNNING",
            {"reason": "no", "cause": "sleep-failed"},
            "CheckpointFailed",
            True,
        ),
        ("WAKING", "WAKING", {"reason": "no", "kind": "criu-failed"}, "RestoreFailed", True),
        ("WAKING", "WAKING", {"reason": "no", "kind": "no-room-node"}, "RestoreHeld", True),
        ("WAKING", "GONE", {"reason": "no", "cause": "wake-failed"}, "RestoreGivenUp", True),
        ("ASLEEP", "GONE", {"reason": "no", "cause": "lost"}, "StateLost", True),
        ("", "UNMANAGED", {"reason": "no"}, "NotManaged", True),
        ("RUNNING", "RUNNING", {"dry_run": True, "would_sleep": True}, "WouldScaleDown", False),
        ("RUNNING", "RUNNING", {"dry_run": True, "cause": "udp"}, "WouldRestore", False),
    ],
)
def test_what_is_said(before, state, more, reason, warning):
    """A stable word, and whether it needs somebody; the reason is in the sentence."""
    event = told(before, state, **more)
    assert (event.reason, event.warning) == (reason, warning)
    assert more.get("reason", "") in event.message
    assert "app" in event.message


@pytest.mark.parametrize(
    ("before", "state", "more"),
    [
        ("RUNNING", "RUNNING", {"cause": "started"}),
        ("ASLEEP", "ASLEEP", {"cause": "adopted"}),
        ("RUNNING", "SLEEPING", {}),
        ("ASLEEP", "WAKING", {}),
        ("SLEEPING", "RUNNING", {"cause": "tcp-connect"}),
        ("RUNNING", "GONE", {"cause": "exited"}),
        ("SLEEPING", "RUNNING", {"reason": "no", "cause": "refused", "kind": "no-port"}),
    ],
)
def test_what_is_not_said(before, state, more):
    """A daemon that starts, a sleep that was called off, an application that ended."""
    assert told(before, state, **more) is None


def test_what_does_not_pass_is_said_in_the_end():
    """An application that is starting listens in a moment; one that never does is somebody's mistake."""
    more = {"reason": "no", "cause": "refused", "kind": "no-port", "failed_sleeps": 3}
    assert told("SLEEPING", "RUNNING", **more).reason == "ScaleDownRefused"


def test_a_message_is_no_longer_than_the_server_takes():
    """Whatever criu says; and not cut in the middle of a letter."""
    event = told("WAKING", "WAKING", reason="ä" * 2000, kind="criu-failed")
    assert len(event.message.encode()) <= 1024
    assert event.message.endswith(" ...")
