"""What a dry run counts."""

from checkpointer.doze import Doze, Dozes


def test_a_would_be_sleep_saves_while_it_lasts():
    """Counted once however often its end is told."""
    dozes = Dozes()
    dozes.begin(Doze(100.0, 5000, frozenset()))

    assert (dozes.sleeps, dozes.saves) == (1, 5000)

    dozes.end("exec", 160.0)
    dozes.end("udp", 170.0)

    assert (dozes.sleeps, dozes.saves, dozes.wakes, dozes.seconds) == (1, 0, {"exec": 1}, 60.0)
