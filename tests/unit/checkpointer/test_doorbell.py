"""The event loop's part in a sleeping container's network; the hold is a stand-in."""

import asyncio
import os
from types import SimpleNamespace

import pytest

from checkpointer.doorbell import Doorbell


class Hold:
    """Has keepalives for as many calls as it is told, and a pipe for a TAP."""

    def __init__(self, calls):
        self.fd, self._writer = os.pipe()
        self.calls = calls
        self.sent = 0

    def keep_alive(self):
        self.sent += 1
        return 0.001 if self.sent < self.calls else None

    def ring(self):
        os.write(self._writer, b"x")

    def receive(self):
        os.read(self.fd, 1)
        return SimpleNamespace(kind="tcp-data")

    def close(self):
        os.close(self.fd)
        os.close(self._writer)


@pytest.fixture
def hold():
    made = Hold(3)
    yield made
    made.close()


async def until(condition):
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.001)


async def test_keepalives_are_sent_as_long_as_there_are_any(hold):
    """The hold says when the next is due, and when there is none to come."""
    Doorbell(SimpleNamespace(hold=hold), lambda _: None).listen()
    await until(lambda: hold.sent == 3)
    await asyncio.sleep(0.01)
    assert hold.sent == 3


async def test_who_is_deaf_sends_none(hold):
    """The container is awake, or gone."""
    hold.calls = 1000000
    doorbell = Doorbell(SimpleNamespace(hold=hold), lambda _: None)
    doorbell.listen()
    await until(lambda: hold.sent > 2)
    doorbell.deafen()
    before = hold.sent
    await asyncio.sleep(0.01)
    assert hold.sent == before


async def test_a_packet_rings(hold):
    """The first that wants an answer is told by its kind."""
    rung = []
    doorbell = Doorbell(SimpleNamespace(hold=hold), rung.append)
    doorbell.listen()
    hold.ring()
    await until(lambda: rung)
    doorbell.deafen()
    assert rung == ["tcp-data"]
