"""Before an uninstallation: everything is woken, and nothing is put to sleep any more."""

import asyncio
from collections.abc import Iterable

from checkpointer import lifecycle
from checkpointer.actor import Actor
from checkpointer.lifecycle import State

CAUSE = "uninstall"

REASON = "zeropod is being uninstalled from this node, or was about to be; it sleeps again after a restart of the daemon"


async def wake(actors: Iterable[Actor], timeout: float) -> list[Actor]:
    """Wake all, several at once, and let none of them sleep again; return those that are not awake in time."""
    actors = list(actors)
    for actor in actors:
        actor.retire()
    awake = await asyncio.gather(*(_woken(actor, timeout) for actor in actors))
    return [actor for actor, woken in zip(actors, awake, strict=True) if not woken]


async def _woken(actor: Actor, timeout: float) -> bool:
    deadline = asyncio.get_running_loop().time() + timeout
    awake = {State.RUNNING, State.GONE}
    if await actor.bring_to(awake, lifecycle.WakeAsked(CAUSE), timeout) not in awake:
        return False
    # The last pages of a large image may still be coming in.
    try:
        async with asyncio.timeout(deadline - asyncio.get_running_loop().time()):
            await actor.at_rest()
    except TimeoutError:
        return False
    return True
