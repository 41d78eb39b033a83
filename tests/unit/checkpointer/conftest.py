"""An actor of a container."""

import asyncio
import concurrent.futures
from collections import defaultdict
from types import SimpleNamespace
from unittest import mock

import pytest
from unit.checkpointer.acting import RECORD

from checkpointer import actor as actors
from checkpointer import sleep, wake
from checkpointer.container import Container
from checkpointer.tally import NodeTally


@pytest.fixture
async def actor(monkeypatch):
    """An actor of a container that runs, with nothing behind it."""
    container = Container(RECORD, mock.Mock())
    engine = SimpleNamespace(
        execs=mock.Mock(),
        store=mock.Mock(),
        drains=None,
        pod_locks=defaultdict(asyncio.Lock),
        tally=NodeTally(),
    )
    monkeypatch.setattr(Container, "fail", mock.Mock())
    monkeypatch.setattr(sleep, "run", lambda *_: None)
    monkeypatch.setattr(wake, "run", lambda *_: None)
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        observed, ended = mock.Mock(), mock.Mock()
        made = actors.Actor(container, engine, pool, observed, ended)
        made.engine, made.observed, made.ended = engine, observed, ended
        yield made
        await made.close()
