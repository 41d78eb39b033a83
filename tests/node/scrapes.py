"""What Prometheus sees of the node: the daemon's series, and those of one container."""

from __future__ import annotations

import urllib.request

from node import sleepers
from prometheus_client import parser
from prometheus_client.metrics_core import Metric

from dev import cri

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def families() -> list[Metric]:
    """Every family of the daemon, also those without a series."""
    with urllib.request.urlopen("http://127.0.0.1:9419/metrics", timeout=10) as answer:
        return list(parser.text_string_to_metric_families(answer.read().decode()))


def scrape() -> Samples:
    """Every series of the daemon."""
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in families()
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
        """Of one series; None if there is none."""
        return scrape().get((name, frozenset({**self.who, **labels}.items())))

    def any(self) -> bool:
        """Whether there is one left."""
        return any(self.who.items() <= dict(labels).items() for _, labels in scrape())


def counted(one: sleepers.Sleeper, name: str, **labels: str) -> None:
    """Wait until one of a container's counters has counted.

    Raises:
        TimeoutError: it has not; says what the daemon has counted of the container.
    """
    series = Series(one)
    try:
        cri.until(lambda: series.value(name, **labels), 30)
    except TimeoutError as error:
        found = {
            (name, *sorted(set(labels) - set(series.who.items()))): value
            for (name, labels), value in scrape().items()
            if series.who.items() <= dict(labels).items() and name.endswith("_total") and value
        }
        raise TimeoutError(f"{name} {labels}: {error}; there are {found}") from error
