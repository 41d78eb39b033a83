"""From what the daemon holds to what it says."""

from unittest import mock

from checkpointer import containers, explain, lifecycle, log
from checkpointer.container import Container
from checkpointer.policy import Policy

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
    text = explain.paragraph(RECORD, container)

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
