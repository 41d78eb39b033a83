"""What is nobody's: images, holds and pods of the past, cleared away once the plugin has said who there is.

Not before: a record may be lost or be another version's, and an image is all that is left of its container.
"""

import asyncio
import concurrent.futures

from checkpointer.arrivals import Arrivals
from checkpointer.engine import Engine
from checkpointer.farewell import Farewell
from checkpointer.roster import Roster

EVERY = 3600.0
"""Seconds between looks at the images of failed containers, which are kept for a day at most."""


class Leftovers:
    """Clears away what is left on a node.

    Args:
        engine: Its store and datapath.
        pool: Threads for what blocks.
        roster: Whose is not nobody's.
        arrivals: Waited for: what is being taken over is somebody's.
        farewell: Lets pods go.
    """

    def __init__(
        self,
        engine: Engine,
        pool: concurrent.futures.Executor,
        roster: Roster,
        arrivals: Arrivals,
        farewell: Farewell,
    ) -> None:
        self._engine = engine
        self._pool = pool
        self._roster = roster
        self._arrivals = arrivals
        self._farewell = farewell
        self._loop = asyncio.get_running_loop()

    async def clear(self) -> None:
        """Clear all of it away."""
        await self._arrivals.over()
        datapath, known = self._engine.datapath, self._roster.ids()
        await self._loop.run_in_executor(self._pool, self._engine.store.gc, known)
        pods = {record.sandbox_id for record in self._roster}
        for sandbox_id in set(datapath.sandboxes()) - pods:
            self._farewell.forget(sandbox_id)
        await self._farewell.all_over()
        for held in datapath.holds():
            if held.container_id not in self._roster:
                datapath.abandon(held.sandbox_id, held.container_id)

    def bound(self) -> None:
        """From now on, let no image of a failed container stay for longer than it should."""
        # Kept for asyncio to say what went wrong in it, if something did.
        self._bounding = self._loop.run_in_executor(self._pool, self._engine.store.failures.bound)
        self._loop.call_later(EVERY, self.bound)
