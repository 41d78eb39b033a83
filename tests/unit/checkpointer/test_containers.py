"""Records on disk."""

import dataclasses
import json

from checkpointer.containers import Record, Records
from checkpointer.policy import Policy
from redirector.endpoints import Port

POLICY = Policy(scaledown=5.0, ignore_from=("10.0.0.0/8",), ports=("tcp/80",))
RECORD = Record("abc", "sand", "web", "default", "u1", "nginx", pid=1, start_time=5, policy=POLICY)


def test_what_is_put_is_loaded_by_the_next_daemon(tmp_path):
    """All fields survive."""
    Records(tmp_path / "c").put(RECORD)

    assert list(Records(tmp_path / "c").load()) == [RECORD]


def test_where_it_listened_is_kept_and_is_not_who_it_is(tmp_path):
    """The plugin reports the same container without it."""
    ports = (Port("tcp", 80), Port("udp", 53))
    Records(tmp_path).put(dataclasses.replace(RECORD, ports=ports))
    [found] = Records(tmp_path).load()

    assert found.ports == ports
    assert found == RECORD


def test_a_damaged_record_is_dropped_and_the_others_are_kept(tmp_path):
    """The plugin reports the damaged one again."""
    records = Records(tmp_path)
    records.put(RECORD)
    (tmp_path / "bad.json").write_text('{"id": "ba')
    (tmp_path / "other.json").write_text('{"id": "x"}')

    assert list(records.load()) == [RECORD]
    assert {p.name for p in tmp_path.iterdir()} == {"abc.json"}


def test_a_record_of_another_version_is_kept(tmp_path):
    """What this version does not know is passed over, what it misses is the default; the container goes on sleeping."""
    record = {name: name for name in ("id", "sandbox_id", "pod", "namespace", "uid", "name")}
    values = {**record, "colour": "red", "policy": {"scaledown": 7.0, "mood": "good"}}
    (tmp_path / "id.json").write_text(json.dumps(values))

    assert list(Records(tmp_path).load()) == [Record(**record, policy=Policy(scaledown=7.0))]


def test_an_id_cannot_leave_the_directory(tmp_path):
    """A record named like a path stays a file of the directory."""
    records = Records(tmp_path / "c")
    records.put(Record("../../evil", "s", "p", "n", "u", "c"))

    assert [p.name for p in (tmp_path / "c").iterdir()] == ["evil.json"]


def test_a_recycled_pid_is_not_the_recorded_process():
    """Pid 1 lives, but it was not started at tick 5."""
    assert not RECORD.alive()


def test_a_record_that_cannot_be_written_is_no_mistake(tmp_path):
    """A full /run must not keep a container from being managed."""
    records = Records(tmp_path / "records")
    (tmp_path / "records").rmdir()
    records.put(RECORD)

    assert list(records.load()) == []
