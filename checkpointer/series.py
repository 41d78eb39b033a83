"""Families of series, as prometheus-client wants them."""

from collections.abc import Iterable

from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)

from checkpointer.tally import Observations

Labels = tuple[str, ...]


def gauges(
    name: str, help_: str, labels: Labels, series: Iterable[tuple[Labels, float]]
) -> Metric:
    """What is so at the moment."""
    family = GaugeMetricFamily(name, help_, labels=labels)
    for values, value in series:
        family.add_metric(values, float(value))
    return family


def counters(
    name: str, help_: str, labels: Labels, series: Iterable[tuple[Labels, float]]
) -> Metric:
    """What has been counted."""
    family = CounterMetricFamily(name, help_, labels=labels)
    for values, value in series:
        family.add_metric(values, float(value))
    return family


def histograms(
    name: str, help_: str, labels: Labels, series: Iterable[tuple[Labels, Observations]]
) -> Metric:
    """How long things took."""
    family = HistogramMetricFamily(name, help_, labels=labels)
    for values, seen in series:
        family.add_metric(values, seen.buckets(), seen.sum)
    return family
