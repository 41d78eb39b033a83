"""Turns: who waits for whom."""

from __future__ import annotations

import threading

from redirector.turns import Turns


def test_one_waits_for_the_other_of_the_same_name_only():
    """The second of a name comes after the first; another name waits for nobody; nothing is left."""
    turns, order = Turns(), []
    inside, go = threading.Event(), threading.Event()

    def first() -> None:
        with turns.of("a"):
            inside.set()
            go.wait(30)
            order.append("first")

    def second() -> None:
        with turns.of("a"):
            order.append("second")

    threads = [threading.Thread(target=first), threading.Thread(target=second)]
    threads[0].start()
    inside.wait(30)
    threads[1].start()
    with turns.of("b"):
        order.append("other")
    go.set()
    for thread in threads:
        thread.join(30)
    assert order == ["other", "first", "second"]
    assert len(turns) == 0
