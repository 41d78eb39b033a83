"""Prometheus metrics: from what is counted and what is there at the moment of a scrape to families of series.

Nothing is stored here: every scrape asks for a `View`, so that a container's series end with it. The names and labels of
the original zeropod are kept with their meaning (its times in nanoseconds included), better ones stand beside them.
docs/metrics.md is generated from this module.
"""

import dataclasses
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from operator import attrgetter

from prometheus_client import registry
from prometheus_client.metrics_core import InfoMetricFamily, Metric

from checkpointer import apiview, series
from checkpointer.apiview import ApiView
from checkpointer.lifecycle import State
from checkpointer.tally import NodeTally, Tally

WHO = ("namespace", "pod", "container")
"""Labels of every series about one container."""


@dataclasses.dataclass(frozen=True, slots=True)
class Sample:
    """One managed container at a moment.

    Attributes:
        who: Namespace, pod and container.
        state: Where it stands.
        tally: What was counted.
        asleep: Seconds asleep in all, the present sleep included.
        image_bytes: Size of its image; 0 without one.
        reclaimed_bytes: Memory that it has given back by being asleep.
        held_frames: Frames that wait for it.
        dropped_frames: Frames given up, in all.
        answered_keepalives: Keepalives answered in its place, in all.
        would_sleep: Sleeps decided in a dry run.
        would_wake: Wakes decided in a dry run, by cause.
        would_save: Bytes of memory that its dry run would be saving now.
    """

    who: tuple[str, str, str]
    state: State
    tally: Tally
    asleep: float = 0.0
    image_bytes: int = 0
    reclaimed_bytes: int = 0
    held_frames: int = 0
    dropped_frames: int = 0
    answered_keepalives: int = 0
    would_sleep: int = 0
    would_wake: Mapping[str, int] = dataclasses.field(default_factory=dict)
    would_save: int = 0


@dataclasses.dataclass(frozen=True, slots=True)
class View:
    """A node at a moment.

    Attributes:
        samples: Its managed containers.
        unmanaged: Containers that ask for zeropod and are not managed, by kind of reason.
        tally: Durations of all sleeps and wakes.
        store_bytes: Size of the image store.
        disk_free_bytes: What its file system has left.
        disk_bytes: Size of that file system.
        plugin: Whether the plugin has reported.
        version: Ours.
        criu: criu's.
        api: What there is to say of the Kubernetes API.
    """

    samples: Sequence[Sample] = ()
    unmanaged: Mapping[str, int] = dataclasses.field(default_factory=dict)
    tally: NodeTally = dataclasses.field(default_factory=NodeTally)
    store_bytes: int = 0
    disk_free_bytes: int = 0
    disk_bytes: int = 0
    plugin: bool = False
    version: str = ""
    criu: str = ""
    api: ApiView = dataclasses.field(default_factory=ApiView)


class Exposition(registry.Collector):
    """A prometheus-client collector over views.

    Args:
        view: Asked once a scrape, from the server's thread.
    """

    def __init__(self, view: Callable[[], View]) -> None:
        self._view = view

    def collect(self) -> Iterable[Metric]:
        """All families with their series."""
        return families(self._view())

    def describe(self) -> Iterable[Metric]:
        """All families without series."""
        return families(View())


def families(view: View) -> Iterator[Metric]:
    """Every family of series, also those that have none at this moment."""
    yield from _original(view)
    yield from _sleeping(view)
    yield from _failing(view)
    yield from _dry_run(view)
    yield from _node(view)
    yield from apiview.families(view.api)


def _original(view: View) -> Iterator[Metric]:
    for name, help_, value in (
        ("checkpoint", "Time that sleeps of the container took.", attrgetter("checkpoints")),
        ("restore", "Time that wakes of the container took.", attrgetter("restores")),
    ):
        yield series.histograms(
            f"zeropod_{name}_duration_seconds",
            f"{help_} Name and buckets of the original zeropod.",
            WHO,
            ((s.who, value(s.tally)) for s in view.samples),
        )
    for name, what, at in (
        ("last_checkpoint_time", "sleep", attrgetter("slept_at")),
        ("last_restore_time", "wake", attrgetter("woke_at")),
    ):
        yield series.gauges(
            f"zeropod_{name}",
            f"When the last {what} ended, in nanoseconds since the epoch, as in the original zeropod.",
            WHO,
            ((s.who, at(s.tally) * 1e9) for s in view.samples if at(s.tally)),
        )
    yield series.gauges(
        "zeropod_running",
        "1 while the application exists, 0 while it is asleep or waking.",
        WHO,
        ((s.who, s.state in {State.RUNNING, State.SLEEPING, State.FROZEN}) for s in view.samples),
    )
    for name, what, count in (
        ("checkpoint_errors", "Sleeps that failed", attrgetter("sleep_failures")),
        ("restore_errors", "Restores that failed", attrgetter("wake_failures")),
    ):
        yield series.counters(
            f"zeropod_{name}",
            f"{what}, as in the original zeropod.",
            WHO,
            ((s.who, count(s.tally).total()) for s in view.samples),
        )


def _sleeping(view: View) -> Iterator[Metric]:
    yield series.counters(
        "zeropod_wakes",
        "Wakes by what caused them.",
        (*WHO, "cause"),
        _by(view, attrgetter("tally.wakes")),
    )
    yield series.counters(
        "zeropod_asleep_seconds",
        "Time asleep since the daemon took the container over.",
        WHO,
        ((s.who, s.asleep) for s in view.samples),
    )
    yield series.gauges(
        "zeropod_memory_reclaimed_bytes",
        "Memory that the container has given back by being asleep.",
        WHO,
        ((s.who, s.reclaimed_bytes) for s in view.samples),
    )
    yield series.gauges(
        "zeropod_image_bytes",
        "Size of the container's image on disk.",
        WHO,
        ((s.who, s.image_bytes) for s in view.samples),
    )
    yield series.gauges(
        "zeropod_held_frames",
        "Frames that wait for the container to wake.",
        WHO,
        ((s.who, s.held_frames) for s in view.samples),
    )
    yield series.counters(
        "zeropod_dropped_frames",
        "Frames that were given up because too many waited; their senders send them again.",
        WHO,
        ((s.who, s.dropped_frames) for s in view.samples),
    )
    yield series.counters(
        "zeropod_answered_keepalives",
        "Keepalives of peers, and other segments that bring nothing new, answered in a sleeping container's place.",
        WHO,
        ((s.who, s.answered_keepalives) for s in view.samples),
    )


def _failing(view: View) -> Iterator[Metric]:
    for name, help_, label, counts in (
        (
            "sleeps_called_off",
            "Sleeps called off before their commit because the application was wanted.",
            "cause",
            attrgetter("tally.called_off"),
        ),
        (
            "sleeps_refused",
            "Sleeps refused because the application cannot be checkpointed as it is.",
            "reason",
            attrgetter("tally.refused"),
        ),
        (
            "sleep_failures",
            "Sleeps that failed; the application runs on.",
            "reason",
            attrgetter("tally.sleep_failures"),
        ),
        (
            "freezes",
            "Applications frozen because they could not be checkpointed.",
            "reason",
            attrgetter("tally.frozen"),
        ),
        (
            "wake_failures",
            "Restores that failed, the image being kept and tried again, and fresh starts that did not come to listen.",
            "reason",
            attrgetter("tally.wake_failures"),
        ),
        (
            "wakes_held",
            "Wakes that had to wait for room in memory or on disk.",
            "reason",
            attrgetter("tally.held"),
        ),
    ):
        yield series.counters(f"zeropod_{name}", help_, (*WHO, label), _by(view, counts))


def _dry_run(view: View) -> Iterator[Metric]:
    yield series.counters(
        "zeropod_dry_run_scale_downs",
        "Sleeps that a dry run decided and did not carry out.",
        WHO,
        ((s.who, s.would_sleep) for s in view.samples if s.would_sleep),
    )
    yield series.counters(
        "zeropod_dry_run_would_restores",
        "Wakes that a dry run decided.",
        (*WHO, "cause"),
        _by(view, attrgetter("would_wake")),
    )
    yield series.gauges(
        "zeropod_dry_run_memory_bytes",
        "Memory that the dry run's present sleep would have given back.",
        WHO,
        ((s.who, s.would_save) for s in view.samples if s.would_sleep),
    )


def _node(view: View) -> Iterator[Metric]:
    for name, what, whole, parts in (
        ("wake", "wakes", view.tally.wakes, view.tally.wake),
        ("sleep", "sleeps", view.tally.sleeps, view.tally.sleep),
    ):
        yield series.histograms(
            f"zeropod_{name}_duration_seconds",
            f"Time that {what} took, of all containers of the node. Modes: `image`, `off` (the application was ended), "
            "`frozen`.",
            ("mode",),
            (((mode,), seen) for mode, seen in whole.items()),
        )
        yield series.histograms(
            f"zeropod_{name}_phase_duration_seconds",
            f"Time that each phase of the node's {what} took; the sums of all phases add up to that of the whole.",
            ("mode", "phase"),
            sorted(parts.items()),
        )
    yield series.counters(
        "zeropod_given_up",
        "Containers that were ended because their application could not be brought back: they are restarted without "
        "its memory. Their own series have ended with them.",
        ("reason",),
        (((kind,), count) for kind, count in sorted(view.tally.given_up.items())),
    )
    states = Counter(s.state for s in view.samples)
    yield series.gauges(
        "zeropod_containers",
        "Managed containers of the node by state.",
        ("state",),
        (((state.value,), states[state]) for state in State),
    )
    yield series.gauges(
        "zeropod_unmanaged_containers",
        "Containers that ask for zeropod and are not managed, by kind of reason; `zeropod why` has the sentence.",
        ("reason",),
        (((kind,), count) for kind, count in sorted(view.unmanaged.items())),
    )
    for name, help_, value in (
        ("image_store_bytes", "Size of all images on the node.", view.store_bytes),
        (
            "image_disk_free_bytes",
            "Space left on the file system of the images.",
            view.disk_free_bytes,
        ),
        ("image_disk_bytes", "Size of the file system of the images.", view.disk_bytes),
        (
            "plugin_connected",
            "1 once the NRI plugin has reported to this daemon.",
            view.plugin,
        ),
    ):
        yield series.gauges(f"zeropod_{name}", help_, (), [((), value)])
    build = InfoMetricFamily("zeropod_build", "Versions of the daemon and of its criu.")
    build.add_metric((), {"version": view.version, "criu": view.criu})
    yield build


def _by(
    view: View, counts: Callable[[Sample], Mapping[str, int]]
) -> Iterator[tuple[series.Labels, float]]:
    for sample in view.samples:
        for label, count in sorted(counts(sample).items()):
            yield (*sample.who, label), count


def document() -> str:
    """docs/metrics.md: what `families` exposes."""
    rows = []
    for family in families(View()):
        labels = ", ".join(getattr(family, "_labelnames", ())) or "-"
        name = family.name + {"counter": "_total", "info": "_info"}.get(family.type, "")
        rows.append(f"| `{name}` | {family.type} | {labels} | {family.documentation} |")
    return "\n".join([*_HEAD, *rows, ""])


_HEAD = (
    "# Metrics",
    "",
    "The daemon serves them in Prometheus' text format or as OpenMetrics, whichever the client accepts, at the address of",
    "its flag `--metrics-addr`. A container's series end with it; counters begin at 0 when the daemon starts. At the same",
    "address `/readyz` says whether it could wake what sleeps, a line for each thing that needs, and `/healthz` whether",
    "it is alive.",
    "An alert rule for each thing that needs somebody, and a dashboard, are in `manifests/monitoring/`.",
    "",
    "This file is generated: `python3 -m checkpointer.metrics > docs/metrics.md`.",
    "",
    "| Name | Type | Labels | Meaning |",
    "|---|---|---|---|",
)

if __name__ == "__main__":
    sys.stdout.write(document())
