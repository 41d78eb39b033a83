"""Lets pods go, on a worker thread: to clear the maps of one takes some 50 ms, in which a client may want to wake another."""

import asyncio
import concurrent.futures
import logging

from redirector.datapath import Datapath

log = logging.getLogger(__name__)


class Farewell:
    """Pods on their way out.

    Args:
        datapath: Forgets them.
        pool: Threads for what blocks.
    """

    def __init__(self, datapath: Datapath, pool: concurrent.futures.Executor) -> None:
        self._datapath = datapath
        self._pool = pool
        self._loop = asyncio.get_running_loop()
        self._leaving: dict[str, asyncio.Task[None]] = {}

    def forget(self, sandbox_id: str) -> None:
        """Begin to remove what is left of a pod in which nothing is managed."""
        before = self._leaving.get(sandbox_id)
        task = self._loop.create_task(
            self._forget(sandbox_id, before), name=f"forget {sandbox_id}"
        )
        self._leaving[sandbox_id] = task
        task.add_done_callback(lambda task: self._forgotten(sandbox_id, task))

    async def _forget(self, sandbox_id: str, before: asyncio.Task[None] | None) -> None:
        if before is not None:
            await before
        try:
            await self._loop.run_in_executor(self._pool, self._datapath.forget, sandbox_id)
        except Exception as error:
            # What is left in the maps is removed when the daemon starts again.
            log.warning("pod.left", extra={"sandbox": sandbox_id}, exc_info=error)

    def _forgotten(self, sandbox_id: str, task: asyncio.Task[None]) -> None:
        if self._leaving.get(sandbox_id) is task:
            del self._leaving[sandbox_id]

    async def over(self, sandbox_id: str) -> None:
        """Wait until a pod that was to be forgotten is, and may be taken over anew."""
        while (task := self._leaving.get(sandbox_id)) is not None:
            await asyncio.wait([task])

    async def all_over(self) -> None:
        """Wait for all of them."""
        while self._leaving:
            await asyncio.wait(list(self._leaving.values()))
