"""Room told before an OOM tells it: in the container, above it, and on the node."""

import os
from pathlib import Path

import pytest

from checkpointer import cgroups, room
from checkpointer.cgroups import Cgroups
from checkpointer.errors import NoRoom
from checkpointer.kinds import Kind
from checkpointer.room import Need, Room

MIB = 1 << 20


def limits(directory: Path, **files: str) -> Path:
    """Write cgroup files."""
    directory.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (directory / name.replace("__", ".")).write_text(text)
    return directory


def v2(directory: Path, limit: str, used: int, cache: int = 0) -> Path:
    """A cgroup of version 2 with memory."""
    return limits(
        directory,
        memory__max=f"{limit}\n",
        memory__current=f"{used}\n",
        memory__stat=f"anon 1\ninactive_file {cache}\nactive_file 0\n",
    )


def test_room_is_limit_minus_use_plus_cache(tmp_path: Path) -> None:
    """Page cache makes way; what is left below the limit counts, in both versions."""
    first = limits(
        tmp_path / "v1",
        memory__limit_in_bytes="1000",
        memory__usage_in_bytes="700",
        memory__stat="total_inactive_file 100\ntotal_active_file 50\ninactive_file 7\n",
    )
    for group in (v2(tmp_path / "v2", "1000", 700, 150), first):
        [bound] = room.bounds(Cgroups({}, group))
        assert (bound.used, bound.free, bound.own) == (550, 450, True)


def test_no_limit_is_room_without_end(tmp_path: Path) -> None:
    """Both ways of saying "no limit" are understood."""
    first = limits(
        tmp_path / "v1",
        memory__limit_in_bytes="9223372036854771712",
        memory__usage_in_bytes="700",
        memory__stat="",
    )
    for group in (v2(tmp_path / "v2", "max", 700), first):
        assert room.bounds(Cgroups({}, group)) == []


@pytest.mark.parametrize(
    ("container", "pod", "kind", "whose"),
    [
        ("150", "max", Kind.NO_ROOM_CONTAINER, "container's limit"),
        ("max", "150", Kind.NO_ROOM_POD, "pod's limit"),
        ("150", "150", Kind.NO_ROOM_CONTAINER, "container's limit"),
    ],
)
def test_each_limit_on_the_way_up_counts(
    tmp_path: Path, container: str, pod: str, kind: Kind, whose: str
) -> None:
    """The reason names whose limit it is, both sizes and what to do."""
    v2(tmp_path / "pod", pod, 100)
    inner = v2(tmp_path / "pod" / "container", container, 100)
    with pytest.raises(NoRoom, match=f"it needs 60 .*{whose} .* room for 50 .*raise") as caught:
        room.fits(room.bounds(Cgroups({}, inner)), Need(60, 1))
    assert caught.value.kind is kind
    room.fits(room.bounds(Cgroups({}, inner)), Need(50, 1))


def test_tasks_count_where_criu_is_born_in_the_cgroup(tmp_path: Path) -> None:
    """That is version 2; on version 1 they move in when they run."""
    group = limits(tmp_path / "c", pids__max="10\n", pids__current="4\n")
    room.tasks(Cgroups({}, group), Need(0, 6))
    with pytest.raises(NoRoom, match=r"needs 7 tasks.*room for 6") as caught:
        room.tasks(Cgroups({}, group), Need(0, 7))
    assert caught.value.kind is Kind.NO_ROOM_TASKS
    room.tasks(Cgroups({"pids": group}, None), Need(0, 7))


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch) -> None:
    """No container has limits."""
    monkeypatch.setattr(cgroups, "of", lambda _: Cgroups({}, None))


@pytest.mark.usefixtures("free")
def test_the_nodes_memory_is_given_once() -> None:
    """What one wake was given and may not have filled yet is not given to another; it comes back when that is over."""
    node = Room(100 * MIB, lambda: 300 * MIB)
    node.take("a", 1, Need(150 * MIB, 1))
    node.take("a", 1, Need(150 * MIB, 1))  # tried again
    with pytest.raises(NoRoom, match=r"needs 64Mi .* has 146Mi left.* keeps 100Mi") as caught:
        node.take("b", 1, Need(60 * MIB, 1))
    assert caught.value.kind is Kind.NO_ROOM_NODE
    node.give_back("a")
    node.give_back("a")
    node.take("b", 1, Need(60 * MIB, 1))


def test_a_limit_above_several_is_given_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two that wake at once may fit below the limit of their pod, or of all pods, each alone and not together."""
    v2(tmp_path / "pods", str(300 * MIB), 100 * MIB)
    groups = {}
    for pid, (pod, name) in enumerate([("one", "a"), ("one", "b"), ("two", "c"), ("three", "d")]):
        v2(tmp_path / "pods" / pod, str(150 * MIB), 50 * MIB)
        groups[pid] = Cgroups({}, v2(tmp_path / "pods" / pod / name, "max", 0))
    monkeypatch.setattr(cgroups, "of", groups.__getitem__)
    node = Room(0, lambda: 1000 * MIB)
    node.take("a", 0, Need(76 * MIB, 1))
    node.take("a", 0, Need(76 * MIB, 1))  # tried again
    with pytest.raises(NoRoom, match=r"needs 44Mi .* pod's limit has room for 20Mi") as caught:
        node.take("b", 1, Need(40 * MIB, 1))
    assert caught.value.kind is Kind.NO_ROOM_POD
    node.take("c", 2, Need(46 * MIB, 1))
    with pytest.raises(NoRoom, match=r"needs 80Mi .* limit has room for 70Mi \(.*pods\)"):
        node.take("d", 3, Need(76 * MIB, 1))
    node.give_back("a")
    node.take("d", 3, Need(76 * MIB, 1))


def test_what_is_filled_already_is_in_use_and_not_kept_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else one container of a pod would wait for the other's wake to be over to the last page."""
    v2(tmp_path / "pod", str(256 * MIB), 2 * MIB)
    groups = {pid: Cgroups({}, v2(tmp_path / "pod" / f"{pid}", "max", MIB)) for pid in (0, 1)}
    monkeypatch.setattr(cgroups, "of", groups.__getitem__)
    node = Room(0, lambda: 230 * MIB)
    node.take("a", 0, Need(126 * MIB, 1))
    with pytest.raises(NoRoom, match=r"needs 130Mi .* room for 124Mi"):
        node.take("b", 1, Need(126 * MIB, 1))
    v2(tmp_path / "pod", str(256 * MIB), 102 * MIB)
    v2(tmp_path / "pod" / "0", "max", 101 * MIB)
    with pytest.raises(NoRoom, match=r"needs 130Mi .* room for 124Mi"):
        node.take("b", 1, Need(126 * MIB, 1))
    node.take("b", 1, Need(120 * MIB, 1))


@pytest.mark.usefixtures("free")
def test_a_node_that_does_not_say_has_room() -> None:
    """MemAvailable is Linux 3.14's; a guess would keep pods asleep."""
    Room(100, lambda: None).take("a", 1, Need(1 << 60, 1))


def test_the_nodes_memory_is_read() -> None:
    """In bytes, and less than there is."""
    left = room.available()
    assert left is not None
    assert 0 < left < os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
