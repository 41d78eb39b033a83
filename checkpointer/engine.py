"""What a sleep and a wake work with: one of each on a node."""

import dataclasses
import threading
from collections import defaultdict

from checkpointer import execwatch, images, settings, zygote
from redirector import datapath


@dataclasses.dataclass(slots=True)
class Engine:
    """The node's datapath, image store, criu zygotes and exec watch.

    Attributes:
        pod_locks: By sandbox id: only one container of a pod is being put to sleep at a time, because the second
            phase of a sleep holds the whole pod's packets.
    """

    settings: settings.Settings
    datapath: datapath.Datapath
    store: images.Store
    zygotes: zygote.Zygotes
    execs: execwatch.ExecWatch
    pod_locks: defaultdict[str, threading.Lock] = dataclasses.field(
        default_factory=lambda: defaultdict(threading.Lock)
    )
