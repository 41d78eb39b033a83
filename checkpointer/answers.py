"""What the API answers: what is known of the node's containers, and how a sleep or a wake that was asked for went."""

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from checkpointer import explain, lifecycle, queries
from checkpointer.actor import Actor
from checkpointer.cluster import Cluster
from checkpointer.container import Container
from checkpointer.containers import Record
from checkpointer.lifecycle import State
from checkpointer.roster import Roster
from ttrpc import errors as rpc


class Answers:
    """To queries; from the loop's thread.

    Args:
        roster: Who there is.
        actors: Of those that are managed, by id.
        cluster: Tells what the Kubernetes API knows of them.
    """

    def __init__(
        self, roster: Roster, actors: Mapping[str, Actor], cluster: Callable[[], Cluster]
    ) -> None:
        self._roster = roster
        self._actors = actors
        self._cluster = cluster

    def infos(self, query: Any) -> list[Any]:
        """Info messages of the containers that a query means, by name."""
        return [self.info(record) for record in queries.find(query, self._roster)]

    def explanations(self, query: Any) -> list[tuple[Any, str]]:
        """Info and paragraph of each container that a query means.

        Raises:
            rpc.TtrpcError: NOT_FOUND.
        """
        return [
            (
                self.info(record),
                explain.paragraph(record, self._container(record), self._seen(record)),
            )
            for record in queries.asked(query, self._roster)
        ]

    def counts(self) -> dict[str, int]:
        """Containers by state; those without an actor are `UNMANAGED`."""
        return dict(Counter(self.info(record).state for record in self._roster))

    def info(self, record: Record) -> Any:
        """The Info message of one container."""
        return explain.info(record, self._container(record), self._seen(record))

    async def move(self, query: Any, *, sleep: bool, timeout: float) -> list[Any]:
        """Put to sleep or wake what a query means and wait for it.

        Raises:
            rpc.TtrpcError: NOT_FOUND; FAILED_PRECONDITION with the reason why it did not work.
        """
        records = queries.movable(query, self._roster, self._actors)
        moves = (self._move(record, sleep=sleep, timeout=timeout) for record in records)
        return list(await asyncio.gather(*moves))

    async def _move(self, record: Record, *, sleep: bool, timeout: float) -> Any:
        actor = self._actors.get(record.id)
        why = queries.refusal(record, managed=actor is not None, sleep=sleep)
        if actor is None or why:
            raise rpc.TtrpcError(rpc.Code.FAILED_PRECONDITION, why)
        wanted = lifecycle.AT_REST if sleep else {State.RUNNING}
        event = lifecycle.SleepAsked("asked") if sleep else lifecycle.WakeAsked("asked")
        if await actor.bring_to(wanted, event, timeout) not in wanted:
            life = actor.container.life
            why = life.reason or f"it is {life.state} ({life.cause})"
            raise rpc.TtrpcError(rpc.Code.FAILED_PRECONDITION, f"{record.title}: {why}")
        return self.info(record)

    def _container(self, record: Record) -> Container | None:
        actor = self._actors.get(record.id)
        return actor.container if actor else None

    def _seen(self, record: Record) -> explain.Seen:
        cluster = self._cluster()
        names = self._roster.names(record)
        return explain.Seen(names, cluster.remark(record), cluster.declared(record))
