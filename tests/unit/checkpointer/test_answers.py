"""What people are told, and what becomes of what they ask for; actors are stand-ins."""

from unittest import mock

import pytest

from checkpointer import api, containers, lifecycle
from checkpointer.answers import Answers
from checkpointer.cluster import Silent
from checkpointer.container import Container
from checkpointer.lifecycle import Life, State
from checkpointer.roster import Roster
from ttrpc import errors as rpc


class Mover:
    """An actor whose container comes to `after` when it is moved."""

    def __init__(self, record: containers.Record, after: Life) -> None:
        self.container = Container(record, mock.Mock())
        self.after = after
        self.events: list[lifecycle.Event] = []

    async def bring_to(self, _states, event, _timeout):
        self.events.append(event)
        self.container.life = self.after
        return self.after.state


def record(name, **more):
    return containers.Record(name, "pod", "web", "default", "u", name, **more)


@pytest.fixture
def roster(tmp_path):
    return Roster(containers.Records(tmp_path))


def answers(roster, *movers):
    for mover in movers:
        roster.note(mover.container.record)
    return Answers(roster, {one.container.record.id: one for one in movers}, Silent)


async def test_what_is_moved_is_shown_as_it_is_then(roster):
    """Both containers of a pod, each by an event of its own."""
    movers = [Mover(record(name), Life(State.ASLEEP)) for name in ("app", "cache")]
    moved = await answers(roster, *movers).move(api.m.Query(pod="web"), sleep=True, timeout=1)

    assert [(info.container, info.state) for info in moved] == [
        ("app", "ASLEEP"),
        ("cache", "ASLEEP"),
    ]
    assert [mover.events for mover in movers] == [[lifecycle.SleepAsked("asked")]] * 2


async def test_who_asks_in_vain_is_told_why(roster):
    """By the reason of the container's life, which is no mistake of the daemon's."""
    mover = Mover(record("app"), Life(State.RUNNING, reason="it has a terminal"))
    with pytest.raises(rpc.TtrpcError, match="default/web/app: it has a terminal") as caught:
        await answers(roster, mover).move(api.m.Query(), sleep=True, timeout=1)

    assert caught.value.code is rpc.Code.FAILED_PRECONDITION


async def test_what_is_not_managed_is_not_moved(roster):
    """It is named with its reason, and counted."""
    told = answers(roster)
    roster.note(record("app", reason="it uses the host network", kind="other"))
    with pytest.raises(rpc.TtrpcError, match="it uses the host network") as caught:
        await told.move(api.m.Query(), sleep=False, timeout=1)

    assert caught.value.code is rpc.Code.FAILED_PRECONDITION
    assert told.counts() == {"UNMANAGED": 1}


async def test_nobody_cannot_be_moved(roster):
    """As with every other question about a pod that is not there."""
    with pytest.raises(rpc.TtrpcError) as caught:
        await answers(roster).move(api.m.Query(pod="db"), sleep=True, timeout=1)

    assert caught.value.code is rpc.Code.NOT_FOUND
