"""What Prometheus sees of a node that works."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from node import sleepers
from node.scrapes import Series, families, scrape

from dev import cri, patience

Pods = Callable[..., cri.Pod]

ROOT = Path(__file__).parents[2]


@pytest.fixture
def asleep(pods: Pods) -> Iterator[tuple[sleepers.Sleeper, Series]]:
    one = sleepers.python(pods)
    one.sleep()
    return one, Series(one)


def test_a_sleep_and_a_wake_are_seen(asleep: Any) -> None:
    """What it gives back while it sleeps, and afterwards what woke it and how long both took."""
    one, series = asleep
    assert series.value("zeropod_running") == 0
    assert series.value("zeropod_memory_reclaimed_bytes") > 1 << 20
    assert series.value("zeropod_image_bytes") > series.value("zeropod_memory_reclaimed_bytes")
    assert one.ask("1 + 1") == 2
    one.reach("RUNNING")
    assert series.value("zeropod_running") == 1
    assert series.value("zeropod_wakes_total", cause="tcp-connect") == 1
    assert series.value("zeropod_memory_reclaimed_bytes") == 0
    assert 0 < series.value("zeropod_asleep_seconds_total") < 60
    for name in ("checkpoint", "restore"):
        assert series.value(f"zeropod_{name}_duration_seconds_count") == 1
        assert series.value(f"zeropod_{name}_errors_total") == 0
    assert series.value("zeropod_last_restore_time") > series.value("zeropod_last_checkpoint_time")


def test_the_phases_add_up(asleep: Any) -> None:
    """To the time of all wakes and sleeps, and a container's own times are among them."""
    one, series = asleep
    one.ask("1")
    one.reach("RUNNING")
    seen = scrape()
    for name, own in (("wake", "restore"), ("sleep", "checkpoint")):
        image = ("mode", "image")
        whole = seen[f"zeropod_{name}_duration_seconds_sum", frozenset({image})]
        phases = [
            value
            for (which, labels), value in seen.items()
            if which == f"zeropod_{name}_phase_duration_seconds_sum" and image in labels
        ]
        assert len(phases) > 3
        assert sum(phases) == pytest.approx(whole)
        assert 0 < series.value(f"zeropod_{own}_duration_seconds_sum") <= whole


def test_series_end_with_their_container(asleep: Any) -> None:
    """A pod that was deleted is in no dashboard."""
    one, series = asleep
    assert series.any()
    one.container.pod.remove()
    patience.until(lambda: not series.any(), 30)


def test_an_unmanaged_container_is_counted(pods: Pods) -> None:
    """By a word, not by the sentence, which has the value in it."""
    label = frozenset({("reason", "annotation")})
    before = scrape().get(("zeropod_unmanaged_containers", label), 0)
    pods(annotations={sleepers.SCALEDOWN: "soon"}).run("localhost/redis:1")
    patience.until(
        lambda: scrape().get(("zeropod_unmanaged_containers", label), 0) == before + 1, 10
    )


def test_document_dashboard_and_alerts_name_what_a_live_node_has(asleep: Any) -> None:
    """The document all of its families with their types and labels, the others none that it has not."""
    live = {family.name + SUFFIX.get(family.type, ""): family for family in families()}
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \| ([^|]+) \|", text("docs/metrics.md"), re.MULTILINE)
    assert {name: kind for name, kind, _ in rows} == {
        # In the plain format an info is a gauge that is 1.
        name: "info" if name.endswith("_info") else family.type
        for name, family in live.items()
    }
    for name, _, labels in rows:
        known = {"version", "criu"} if name.endswith("_info") else set(labels.split(", ")) - {"-"}
        for sample in live[name].samples:
            assert set(sample.labels) - {"le"} == known, name
    for path in ("manifests/monitoring/alerts.yaml", "manifests/monitoring/dashboard.json"):
        used = set(re.findall(r"\bzeropod_[a-z_]+", text(path)))
        assert {re.sub("_(bucket|sum|count)$", "", name) for name in used} <= set(live)


#: What the parser leaves out of a family's name.
SUFFIX = {"counter": "_total"}


def text(path: str) -> str:
    """A file of the repository."""
    return (ROOT / path).read_text(encoding="utf-8")
