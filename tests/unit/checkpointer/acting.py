"""An actor with nothing behind it."""

import dataclasses

from checkpointer import containers
from checkpointer.policy import Policy

RECORD = containers.Record(
    "id", "pod", "p", "n", "u", "c", pid=1, start_time=1, policy=Policy(scaledown=1.0)
)


def become(actor, state):
    actor.container.life = dataclasses.replace(actor.container.life, state=state)


async def idle(actor):
    """Until nothing is under way."""
    await actor.caught_up()
    while actor._jobs:
        await actor._jobs.ended()
        await actor.caught_up()


def want(actor, **policy):
    """Have the container's owner want something."""
    record = actor.container.record
    wanted = dataclasses.replace(record.policy, **policy)
    actor.container.record = dataclasses.replace(record, policy=wanted)
