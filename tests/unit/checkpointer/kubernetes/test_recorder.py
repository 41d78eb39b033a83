"""How often something is said."""

from __future__ import annotations

import pytest

from checkpointer.kubernetes import errors, recorder
from checkpointer.kubernetes.telling import Event

WHO = recorder.Series("uid", "default", "web", "app", "Running")
RUNNING = Event("Running", "Restored container app")


class Server:
    """Remembers what it was asked for."""

    def __init__(self):
        self.asked, self.gone = [], False

    def request(self, method, path, **more):
        self.asked.append((method, more["body"]))
        if method == "PATCH" and self.gone:
            raise errors.NotFound("no such event", 404)
        return {"metadata": {"name": f"event-{len(self.asked)}"}}


class Bench:
    """A recorder with a clock that is turned by hand."""

    def __init__(self):
        self.server, self.now, self.due = Server(), 1000.0, []
        self.recorder = recorder.Recorder(
            self.server.request,
            "node-1",
            lambda *due: self.due.append(due),
            clock=lambda: self.now,
        )

    def happens(self, series=WHO):
        self.recorder.note(series, RUNNING)
        return self.due[-1][1]


@pytest.fixture
def bench():
    return Bench()


def test_the_first_time_is_told_at_once(bench):
    """The second is added to it, a while later."""
    assert bench.happens() == 0
    bench.recorder.post(WHO)
    bench.now += 1
    assert bench.happens() == recorder.SPACING - 1
    bench.now += recorder.SPACING
    bench.recorder.post(WHO)

    assert [(m, b["count"]) for m, b in bench.server.asked] == [("POST", 1), ("PATCH", 2)]
    assert bench.server.asked[1][1]["lastTimestamp"] == "1970-01-01T00:16:41Z"


def test_what_goes_on_is_told_more_and_more_rarely(bench):
    """A pod that sleeps and wakes all day changes its Event six times an hour, and what has stopped begins anew."""
    told = []
    for _ in range(3600):
        before = len(bench.server.asked)
        bench.happens()
        bench.recorder.post(WHO)
        told += [bench.now - 1000] * (len(bench.server.asked) - before)
        bench.now += 1
    assert told == [0, 30, 90, 210, 450, 930, 1530, 2130, 2730, 3330]
    bench.now += recorder.LONGEST
    assert bench.happens() == 0
    bench.recorder.post(WHO)
    bench.now += 1

    assert bench.happens() == 2 * recorder.SPACING - 1
    assert {method for method, _ in bench.server.asked[1:]} == {"PATCH"}


def test_who_asks_too_early_is_told_when(bench):
    """A series may have been due since before its last change."""
    bench.happens()
    bench.recorder.post(WHO)
    bench.happens()

    assert bench.recorder.post(WHO) == recorder.SPACING
    assert len(bench.server.asked) == 1


def test_a_node_that_thrashes_is_bounded(bench):
    """A hundred pods that sleep and wake all the time: some writes a minute, not some a second."""
    many = [WHO._replace(uid=str(number), reason=reason) for number in range(100) for reason in ("Running", "ScaledDown")]  # fmt: skip
    due = dict.fromkeys(many, 0.0)
    for _ in range(3600):
        for series in many:
            bench.recorder.note(series, RUNNING)
            if due[series] <= bench.now:
                due[series] = bench.now + bench.recorder.post(series)
        bench.now += 1
    first, bench.server.asked = len(bench.server.asked), []
    for _ in range(600):
        for series in many:
            bench.recorder.note(series, RUNNING)
            bench.recorder.post(series)
        bench.now += 1

    assert first <= recorder.BURST + 3600 * recorder.PER_SECOND
    assert len(bench.server.asked) <= 1.01 * len(many)


def test_what_was_told_is_not_told_again(bench):
    """A series may be due more often than there is something to say."""
    bench.happens()
    bench.recorder.post(WHO)
    bench.recorder.post(WHO)

    assert len(bench.server.asked) == 1


def test_what_the_server_has_forgotten_is_told_anew(bench):
    """It keeps events for an hour; and somebody may remove one earlier."""
    bench.happens()
    bench.recorder.post(WHO)
    bench.server.gone = True
    bench.now += 60
    bench.happens()
    bench.recorder.post(WHO)
    assert [m for m, _ in bench.server.asked] == ["POST", "PATCH", "POST"]
    bench.now += recorder.LASTS + 1
    bench.happens()
    bench.recorder.post(WHO)

    assert bench.server.asked[-1][0] == "POST"
    assert bench.server.asked[-1][1]["count"] == 1


def test_all_events_share_a_budget(bench):
    """Beyond it they wait, and are not lost."""
    many = [WHO._replace(uid=str(number)) for number in range(int(recorder.BURST) + 5)]
    for series in many:
        bench.happens(series)
    waits = [bench.recorder.post(series) for series in many]
    assert sum(wait > 0 for wait in waits) == 5
    bench.now += 10

    assert bench.recorder.post(many[-1]) == 0
    assert len(bench.server.asked) == recorder.BURST + 1


def test_memory_is_bounded(bench, monkeypatch):
    """What has been silent for the longest time is forgotten."""
    monkeypatch.setattr(recorder, "MOST", 10)
    for number in range(20):
        bench.happens(WHO._replace(uid=str(number)))
    for number in range(20):
        bench.recorder.post(WHO._replace(uid=str(number)))

    assert len(bench.server.asked) == 10


def test_what_is_refused_is_given_up(bench):
    """A namespace that is being deleted takes no events."""

    def refuse(*_, **__):
        raise errors.Rejected("it is being terminated", 403)

    bench.recorder._request = refuse
    bench.happens()

    assert bench.recorder.post(WHO) == 0
