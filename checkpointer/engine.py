"""What a sleep and a wake work with: one of each on a node."""

import asyncio
import concurrent.futures
import dataclasses
from collections import defaultdict

from checkpointer import execwatch, images, settings, zygote
from checkpointer.room import Room
from checkpointer.rush import Rush
from checkpointer.tally import NodeTally
from checkpointer.unthrottled import Unthrottled
from redirector import datapath

DRAINS = 1000
"""Threads, started as they are needed, that wait for page daemons: never those that wake containers."""


@dataclasses.dataclass(slots=True)
class Engine:
    """The node's datapath, image store, criu zygotes and exec watch.

    Attributes:
        room: Memory for wakes.
        unthrottled: Lifts CPU limits for them.
        drains: Threads for what waits for minutes.
        tally: Durations of all sleeps and wakes.
        rush: Entered by wakes until their first byte is out.
        pod_locks: By sandbox id: only one container of a pod is being put to sleep at a time, because the second
            phase of a sleep holds the whole pod's packets.
    """

    settings: settings.Settings
    datapath: datapath.Datapath
    store: images.Store
    zygotes: zygote.Zygotes
    execs: execwatch.ExecWatch
    room: Room
    unthrottled: Unthrottled
    drains: concurrent.futures.Executor = dataclasses.field(
        default_factory=lambda: concurrent.futures.ThreadPoolExecutor(DRAINS, "drain")
    )
    tally: NodeTally = dataclasses.field(default_factory=NodeTally)
    rush: Rush = dataclasses.field(default_factory=Rush)
    pod_locks: defaultdict[str, asyncio.Lock] = dataclasses.field(
        default_factory=lambda: defaultdict(asyncio.Lock)
    )
