"""What an actor has under way: tasks that it does not wait for, but does not outlive either."""

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any

logger = logging.getLogger(__name__)


class Jobs:
    """Tasks of one owner.

    Args:
        owner: Whose they are; part of their names.
    """

    def __init__(self, owner: str) -> None:
        self._owner = owner
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self, job: Coroutine[Any, Any, None], name: str) -> None:
        """Run a job; what it raises is logged."""
        task = asyncio.get_running_loop().create_task(job, name=f"{name} {self._owner}")
        self._tasks.add(task)
        task.add_done_callback(self._finished)

    def __bool__(self) -> bool:
        """Whether something is under way."""
        return bool(self._tasks)

    async def ended(self) -> None:
        """Wait until nothing is under way, what is started meanwhile included."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            logger.error("job.broke", extra={"job": task.get_name()}, exc_info=task.exception())
