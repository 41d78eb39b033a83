"""Who there is: the containers of this node that ask for zeropod, known to this daemon and written down for the next."""

from collections.abc import Iterator

from checkpointer.containers import Record, Records


class Roster:
    """Records by id. Written from the loop's thread only, read from any.

    Args:
        records: Where the next daemon finds them.
    """

    def __init__(self, records: Records) -> None:
        self._records = records
        self._known: dict[str, Record] = {}
        self._names: dict[str, set[str]] = {}  # of containers, by uid of the pod

    def load(self) -> Iterator[Record]:
        """What the last daemon has written down; by that alone nothing is known yet."""
        yield from list(self._records.load())

    def put(self, record: Record) -> None:
        """Know a container from now on, in later daemons too."""
        self._known[record.id] = record
        self._records.put(record)

    def note(self, record: Record) -> None:
        """Know a container, or something of one, that the next daemon has to find out by itself."""
        self._known[record.id] = record

    def drop(self, container_id: str) -> Record | None:
        """Forget a container, here and on disk; return what was known of it."""
        self._records.drop(container_id)
        return self._known.pop(container_id, None)

    def get(self, container_id: str) -> Record | None:
        """What is known of a container."""
        return self._known.get(container_id)

    def __contains__(self, container_id: object) -> bool:
        return container_id in self._known

    def __iter__(self) -> Iterator[Record]:
        return iter(list(self._known.values()))

    def ids(self) -> set[str]:
        """Of all containers."""
        return set(self._known)

    def manages(self, sandbox_id: str) -> bool:
        """Whether something of a pod is managed, or is being taken over at this moment."""
        return any(record.pid and record.sandbox_id == sandbox_id for record in self)

    def note_name(self, uid: str, name: str) -> None:
        """Remember that a pod has, or had, a container of this name."""
        self._names.setdefault(uid, set()).add(name)

    def names(self, record: Record) -> set[str]:
        """All names that containers of a container's pod have had, as far as somebody said so."""
        return self._names.get(record.uid, set()) | {record.name}

    def forget_names(self) -> None:
        """Let go of the names of pods of which nothing is known any more."""
        pods = {record.uid for record in self}
        self._names = {uid: names for uid, names in self._names.items() if uid in pods}
