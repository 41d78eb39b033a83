"""The steps of an installation on a node of files, one at a time."""

from unit.installer.fake_nodes import found

from installer import containerd, journal, layouts, payload, runtime

CONFIG = "/etc/containerd/config.toml"
MACHINE = {
    "/usr/bin/containerd": "",
    "/version": "containerd github.com/containerd/containerd v1.7.24 abc",
}


class Time:
    """A clock that goes on when somebody waits."""

    def __init__(self):
        self.now = 0.0

    def clock(self):
        return self.now

    def pause(self, seconds):
        self.now += seconds


def runtime_of(node, layout, **more):
    time = Time()
    known = journal.Journal(node, payload.OPT)
    return runtime.Runtime(
        node, layout, known, timeout=5, clock=time.clock, pause=time.pause, **more
    )


def apply(node, **more):
    layout = layouts.find(node)
    seen = found(node, layout)
    changes = containerd.install(layout, seen)
    return runtime_of(node, layout, **more).install(changes, containerd.socket(seen))


def take_out(node, **more):
    layout = layouts.find(node)
    changes = containerd.uninstall(layout, found(node, layout))
    return runtime_of(node, layout, **more).uninstall(changes)


def ship(node, source):
    return payload.ship(node, source, payload.OPT, journal.Journal(node, payload.OPT))
