"""Whatever the API server does meanwhile: in the end it knows what is so, and nobody has lost a request."""

from __future__ import annotations

import asyncio
import random

import pytest
from fakes.apiserver import away, busy
from fakes.clusters import quiet, until

from checkpointer.kubernetes.work import Work

PODS = [f"pod-{number}" for number in range(8)]
ASKED = {"cpu": "100m", "memory": "64Mi"}
LEAST = {"cpu": "1m", "memory": "1Ki"}


class Weather:
    """Some of the requests go wrong, in a way of their own."""

    def __init__(self, dice):
        self._dice = dice
        self.bad = True

    def __call__(self, handler):
        if not self.bad or self._dice.random() < 0.5:
            return False
        return self._dice.choice([away, lost, busy(500), busy(409), busy(429, "0"), busy(503)])(
            handler
        )


def lost(handler):
    """Done, but nobody hears of it."""
    if handler.command != "PATCH":
        return False
    handler.wfile, wire = Nowhere(), handler.wfile
    try:
        handler.answer()
    finally:
        handler.wfile = wire
    return away(handler)


class Nowhere:
    """Where an answer goes that gets lost."""

    def write(self, _data):
        """Nobody hears it."""

    def flush(self):
        """Nor now."""


def kill(side):
    """At once: what it has begun may come to its end, and nothing more."""
    side._following.cancel()
    side._work.close()
    side._work = Work()  # so that its clean-up waits for nothing
    side._watch.close()


@pytest.mark.parametrize("seed", range(4))
async def test_all_is_well_in_the_end(begin, daemon, cluster, server, monkeypatch, seed):
    """Labels and requests are those of the last transition; the daemon is killed and started again in between."""
    dice = random.Random(seed)
    monkeypatch.setattr("checkpointer.kubernetes.reconciler.LULL", 0.05)
    monkeypatch.setattr("checkpointer.kubernetes.reconciler.REJECTED", (0.05, 0.05))
    for place in ("side", "work", "watch"):
        monkeypatch.setattr(f"checkpointer.kubernetes.{place}.pause", lambda _: 0.02)
    asleep = dict.fromkeys(PODS, False)
    for name in PODS:
        cluster.put(name)
        daemon.knows(name, "RUNNING")
    server.trouble = weather = Weather(dice)
    side = begin()
    for _ in range(60):
        name = dice.choice(PODS)
        asleep[name] = not asleep[name]
        (daemon.sleeps if asleep[name] else daemon.wakes)(name)
        await asyncio.sleep(dice.random() * 0.03)
        if dice.random() < 0.1:
            server.cut()
        if dice.random() < 0.05:
            with server.outage():
                pass
        if dice.random() < 0.05:
            kill(side)
            side = begin()
    weather.bad = False

    def right(name):
        noted = sum(key.endswith("-requests") for key in cluster.annotations(name))
        found = (cluster.label(name), cluster.requests(name), noted)
        return found == (("SCALED_DOWN", LEAST, 2) if asleep[name] else ("RUNNING", ASKED, 0))

    await until(lambda: all(map(right, PODS)))
    await quiet(side, server)
    assert all(map(right, PODS))
