"""From what the daemon holds to what it says."""

import dataclasses
from unittest import mock

import pytest

from checkpointer import containers, explain, lifecycle, log
from checkpointer.container import Container
from checkpointer.policy import Policy
from redirector.endpoints import Port

RECORD = containers.Record(
    "id", "pod", "p", "n", "u", "c", pid=1, start_time=1, policy=Policy(scaledown=60.0)
)


def test_what_waits_for_a_sleeping_container_is_told():
    """Frames in its queue, and those that were given up."""
    container = Container(RECORD, mock.Mock(), hold=mock.Mock(queued=3, dropped=2))
    info = explain.info(RECORD, container)

    assert (info.held_frames, info.dropped_frames) == (3, 2)


def test_reasons_are_printable_whatever_a_container_calls_its_files():
    """They reach a terminal, and messages take only text."""
    reason = "it keeps /tmp/\udcff\x1b[2J open"
    life = lifecycle.Life(reason=reason)
    container = Container(RECORD, mock.Mock(), life=life, busy=reason)
    info = explain.info(RECORD, container)
    text = explain.paragraph(RECORD, container, explain.Seen())

    assert info.reason == info.busy == r"it keeps /tmp/\udcff\x1b[2J open"
    assert r"/tmp/\udcff\x1b[2J" in text
    assert text.isprintable()


def test_a_log_line_is_one_line():
    """Whatever stands in a field cannot end the line, begin another field or move the cursor."""
    for text in ("a\rb", "a\x1b[2J", "a\u2028b", 'a"', "a=b", ""):
        quoted = log._plain(text)

        assert quoted.startswith('"')
        assert quoted.isprintable()
    assert log._plain("plain/text:1") == "plain/text:1"


def test_wishes_and_notes_are_told():
    """What is not the default, what changes nothing, and a port on which nobody listens."""
    policy = Policy(
        wishes=("min-awake=5m",), notes=("a changes nothing",), ports=("tcp/80", "tcp/81")
    )
    record = dataclasses.replace(RECORD, policy=policy)
    container = Container(record, mock.Mock(), ports=frozenset([Port("tcp", 80), Port("udp", 81)]))
    info = explain.info(record, container, explain.Seen({"c"}))
    text = explain.paragraph(record, container, explain.Seen({"c"}))

    assert list(info.wishes) == ["min-awake=5m"]
    assert [note.split()[0] for note in info.notes] == ["a", "zeropod.ctrox.dev/ports-map"]
    assert "Its annotations: min-awake=5m. Note: a changes nothing. Note: " in text
    assert "names tcp/81 for it, on which it does not listen" in text


def test_before_the_first_look_no_port_is_missed():
    """Which ports it listens on is not known yet."""
    record = dataclasses.replace(RECORD, policy=Policy(ports=("tcp/80",)))

    assert not explain.info(record, Container(record, mock.Mock()), explain.Seen({"c"})).notes


def test_an_unmanaged_container_has_its_reason_alone():
    """And the names that may be why it is not named; the policy's own notes would only repeat the reason."""
    policy = Policy(names=("sidecra",), notes=("it never sleeps by itself: because",))
    record = dataclasses.replace(RECORD, policy=policy, reason="because", kind="annotation", pid=0)
    info = explain.info(record, None, explain.Seen({"c", "sidecar"}))

    assert (info.state, info.kind) == ("UNMANAGED", "annotation")
    assert list(info.notes) == [
        "its annotations name sidecra, which the pod has not had so far (only c, sidecar); was sidecar meant?"
    ]


@pytest.mark.parametrize(
    ("state", "ports", "told"),
    [
        (lifecycle.State.RUNNING, set(), True),
        (lifecycle.State.RUNNING, {Port("tcp", 80)}, False),  # late, but there
        (lifecycle.State.ASLEEP, set(), False),
    ],
)
def test_who_was_started_and_does_not_listen_has_a_reason(state, ports, told):
    """With its word, until it listens; asleep it is nobody's fault."""
    life = lifecycle.Life(state)
    container = Container(RECORD, mock.Mock(), life=life, ports=frozenset(ports))
    container.unheard = frozenset([Port("tcp", 80)])
    info = explain.info(RECORD, container)
    text = explain.paragraph(RECORD, container, explain.Seen())

    assert (info.kind == "start-silent") is told
    assert ("has not listened on tcp/80" in info.reason) is told
    assert ("has not listened on tcp/80" in text) is told


def test_what_others_know_is_told():
    """Such as why its requests in Kubernetes are as they are."""
    text = explain.paragraph(
        RECORD, Container(RECORD, mock.Mock()), explain.Seen((), "it is late")
    )

    assert text.endswith("Note: it is late.")
