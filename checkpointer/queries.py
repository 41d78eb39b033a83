"""Which containers a query of the API means; pure."""

from collections.abc import Container, Iterable
from typing import Any

from checkpointer.containers import Record
from ttrpc import errors as rpc


def find(query: Any, records: Iterable[Record]) -> list[Record]:
    """Records that a query's namespace, pod and container name, as far as it has them; in the order of their titles."""
    wanted = (query.namespace, query.pod, query.container)
    found = [
        record
        for record in records
        if all(
            not w or w == g
            for w, g in zip(wanted, (record.namespace, record.pod, record.name), strict=True)
        )
    ]
    return sorted(found, key=lambda record: record.title)


def asked(query: Any, records: Iterable[Record]) -> list[Record]:
    """The same, at least one.

    Raises:
        rpc.TtrpcError: NOT_FOUND.
    """
    found = find(query, records)
    if not found:
        name = "/".join(part for part in (query.namespace, query.pod, query.container) if part)
        raise rpc.TtrpcError(
            rpc.Code.NOT_FOUND,
            f"{name}: no such pod on this node asks for zeropod (an annotation zeropod.ctrox.dev/..., or "
            "runtimeClassName zeropod)",
        )
    return found


def movable(query: Any, records: Iterable[Record], managed: Container[str]) -> list[Record]:
    """Those that are to sleep or wake: of what is meant, what is managed; if nothing is, all, to say why.

    Raises:
        rpc.TtrpcError: NOT_FOUND.
    """
    meant = asked(query, records)
    return [record for record in meant if record.id in managed] or meant


def refusal(record: Record, *, managed: bool, sleep: bool) -> str:
    """Why a container can neither sleep nor wake because somebody asks for it; "" if it can.

    Args:
        record: What is known of it.
        managed: It has an actor.
        sleep: It is to sleep; else to wake.
    """
    if not managed:
        return f"{record.title} is not managed: {record.reason or 'it has not started yet'}"
    if sleep and record.policy.dry_run:
        return (
            f"{record.title}: zeropod.ctrox.dev/dry-run is set, so that nothing of it sleeps; `zeropod why` says what it "
            "would do"
        )
    return ""
