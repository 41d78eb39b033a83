"""`kubectl zeropod watch`: what is, then each change."""

from __future__ import annotations

import json
import threading

from fakes.pods import sleeper
from unit.kubectl_zeropod.shown import lines

from dev import patience


def play(api, *steps):
    """Take steps as soon as somebody watches, then end it: the right to watch is taken away.

    It is taken away, too, if that does not come to pass: neither side waits for the other for ever.
    """

    def go():
        try:
            patience.until(lambda: api.asked("watch=True"))
            for step in steps:
                step()
        finally:
            api.deny("watch", "pods")
            api.hang_up()

    player = threading.Thread(target=go)
    player.start()
    return player


def test_watch_prints_what_is_and_what_changes(api, run):
    """A line for each change of a state, none for other changes."""
    api.put("pods", sleeper("web", "RUNNING"))
    player = play(
        api,
        lambda: api.put("pods", sleeper("web", "RUNNING", node="node-2")),
        lambda: api.put("pods", sleeper("web", "SCALED_DOWN")),
        lambda: api.put("pods", sleeper("db", "RUNNING")),
        lambda: api.drop("pods", "default", "db"),
    )

    code, out, _ = run("watch")
    player.join()

    assert code == 5  # which is how this test ends it
    assert [line[-3:] for line in lines(out)] == [
        ["POD", "CONTAINER", "STATE"],
        ["web", "app", "RUNNING"],
        ["web", "app", "SCALED_DOWN"],
        ["db", "app", "RUNNING"],
        ["db", "app", "DELETED"],
    ]


def test_watch_goes_on_after_the_server_has_forgotten(api, run):
    """What changed meanwhile is told, what did not is not told again."""
    api.put("pods", sleeper("web", "RUNNING"))
    api.put("pods", sleeper("db", "RUNNING"))

    def listed():
        return api.asked("/pods?", but="watch=True")

    def outage():
        before = listed()
        with api.outage():
            api.drop("pods", "default", "db")
            api.put("pods", sleeper("web", "SCALED_DOWN"))
        patience.until(lambda: listed() > before)

    player = play(api, outage)

    _, out, _ = run("watch", "-o", "json")
    player.join()

    told = [(one["pod"], one["state"]) for one in map(json.loads, out.splitlines())]
    assert told == [
        ("db", "RUNNING"),
        ("web", "RUNNING"),
        ("db", "DELETED"),
        ("web", "SCALED_DOWN"),
    ]
