"""What Prometheus sees of a node that works."""

from __future__ import annotations

import re
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from node import sleepers
from prometheus_client import parser

from dev import cri, patience

Pods = Callable[..., cri.Pod]
Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]

ROOT = Path(__file__).parents[2]


def scrape() -> Samples:
    """Every series of the daemon."""
    with urllib.request.urlopen("http://127.0.0.1:9419/metrics", timeout=10) as answer:
        text = answer.read().decode()
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in parser.text_string_to_metric_families(text)
        for sample in family.samples
    }


class Series:
    """The series of one container."""

    def __init__(self, one: sleepers.Sleeper) -> None:
        self.who = {
            "namespace": one.container.pod.namespace,
            "pod": one.container.pod.name,
            "container": one.container.name,
        }

    def value(self, name: str, **labels: str) -> float | None:
        return scrape().get((name, frozenset({**self.who, **labels}.items())))

    def any(self) -> bool:
        return any(self.who.items() <= dict(labels).items() for _, labels in scrape())


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
        whole = seen[f"zeropod_{name}_duration_seconds_sum", frozenset()]
        phases = [
            v for (n, _), v in seen.items() if n == f"zeropod_{name}_phase_duration_seconds_sum"
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


def test_the_document_names_every_series_of_a_live_node(asleep: Any) -> None:
    """And with the labels it has."""
    document = (ROOT / "docs/metrics.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \| ([^|]+) \|", document, re.MULTILINE)
    known = {name: set() if labels == "-" else set(labels.split(", ")) for name, _, labels in rows}
    for name, labels in scrape():
        base = re.sub("_(bucket|sum|count)$", "", name)
        own = {label for label, _ in labels} - {"le"}
        assert own <= known[base] | {"version", "criu"}, name
