"""What a restarted daemon makes of what it finds."""

import pytest

from checkpointer.images import Fence
from checkpointer.reconcile import Found, Verdict, judge
from checkpointer.supervisor import State


@pytest.mark.parametrize(
    ("application", "supervisor", "fence", "verdict"),
    [
        (True, State.RUN, None, Verdict.RUNNING),
        (True, State.RUN, Fence.NONE, Verdict.RUNNING),
        (True, State.RUN, Fence.RELEASED, Verdict.RUNNING),
        (True, State.ARMED, None, Verdict.RESUME),
        (True, State.ARMED, Fence.NONE, Verdict.RESUME),
        (True, State.ASLEEP, Fence.RELEASED, Verdict.RESUME),
        (True, State.ASLEEP, Fence.BEGUN, Verdict.RESTORE),
        (False, State.ASLEEP, Fence.NONE, Verdict.ASLEEP),
        (False, State.ARMED, Fence.NONE, Verdict.ASLEEP),
        (False, State.ASLEEP, Fence.BEGUN, Verdict.RESTORE),
        (False, State.ASLEEP, Fence.RELEASED, Verdict.RESUME),
        (False, State.RUN, None, Verdict.EXITED),
        (False, State.RUN, Fence.NONE, Verdict.EXITED),
        (False, State.ASLEEP, None, Verdict.LOST),
        (False, State.ARMED, None, Verdict.LOST),
        (False, State.OFF, None, Verdict.OFF),
        (True, State.OFF, None, Verdict.OFF),
        (True, State.ENDING, None, Verdict.END),
        (False, State.ENDING, None, Verdict.END),
        (True, State.FROZEN, None, Verdict.RESUME),
        (False, State.FROZEN, None, Verdict.EXITED),
    ],
)
def test_the_table_of_the_design(application, supervisor, fence, verdict):
    """Each row of docs/architecture.md."""
    assert judge(Found(application, supervisor, fence)) is verdict


def test_an_image_from_which_the_application_was_let_go_is_never_restored_again():
    """Whatever else is found."""
    for application in (True, False):
        for state in State:
            assert judge(Found(application, state, Fence.RELEASED)) not in {
                Verdict.RESTORE,
                Verdict.ASLEEP,
            }


def test_what_was_being_started_is_waited_for():
    """Its clients' packets would else meet an application that does not listen yet."""
    assert judge(Found(True, State.RUN, held=True)) is Verdict.STARTING
    assert judge(Found(True, State.RUN, held=False)) is Verdict.RUNNING
    assert judge(Found(False, State.RUN, held=True)) is Verdict.EXITED
