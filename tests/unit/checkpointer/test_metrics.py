"""What a scrape shows."""

import json
import re
import urllib.request
from collections import Counter
from pathlib import Path

import pytest
from prometheus_client import parser, registry
from prometheus_client.openmetrics import parser as openmetrics

from checkpointer import errors, lifecycle, metrics, scrape
from checkpointer.kinds import Kind
from checkpointer.lifecycle import Life, State
from checkpointer.tally import Tally

ROOT = Path(__file__).parents[3]
WHO = {"namespace": "shop", "pod": "web-1", "container": "nginx"}


def sample(**fields):
    tally = fields.pop("tally", Tally())
    return metrics.Sample(tuple(WHO.values()), fields.pop("state", State.RUNNING), tally, **fields)


def exposed(view):
    only = registry.CollectorRegistry()
    only.register(metrics.Exposition(lambda: view))
    return only


def tallied(*events):
    life, tally = Life(), Tally()
    for event in events:
        before = life
        life, _ = lifecycle.step(life, event)
        tally.note(before, event, life, epoch=17.0, ticks=3.0)
    return tally


def names():
    """All sample names that a live scrape may have."""
    found = set()
    for family in metrics.families(metrics.View()):
        suffixes = {
            "counter": ["_total"],
            "histogram": ["_bucket", "_sum", "_count"],
            "info": ["_info"],
        }.get(family.type, [""])
        found |= {family.name + suffix for suffix in suffixes}
    return found


def test_a_container_that_has_ended_has_no_series():
    """Whatever it had; its pod's name is in no sample any more."""
    there = exposed(
        metrics.View([sample(tally=tallied(lifecycle.SleepAsked("idle"), lifecycle.Slept()))])
    )
    gone = exposed(metrics.View())

    assert there.get_sample_value("zeropod_running", WHO) == 1
    assert not [s for f in gone.collect() for s in f.samples if "pod" in s.labels]


def test_the_originals_names_labels_and_units_are_kept():
    """Its times are nanoseconds, its histogram has its buckets."""
    tally = tallied(lifecycle.SleepAsked("idle"), lifecycle.Slept())
    tally.checkpoints.add(0.15)
    found = exposed(metrics.View([sample(state=State.ASLEEP, tally=tally)]))

    assert found.get_sample_value("zeropod_running", WHO) == 0
    assert found.get_sample_value("zeropod_last_checkpoint_time", WHO) == 17e9
    assert found.get_sample_value("zeropod_last_restore_time", WHO) is None
    assert found.get_sample_value("zeropod_checkpoint_errors_total", WHO) == 0
    bucket = {**WHO, "le": "0.2"}
    assert found.get_sample_value("zeropod_checkpoint_duration_seconds_bucket", bucket) == 1


def test_both_formats_can_be_read(tmp_path):
    """By Prometheus' own parsers, from a real server, on a port of its choice."""
    tally = tallied(lifecycle.SleepAsked("idle"), lifecycle.SleepRefused("no", Kind.UNSUPPORTED))
    view = metrics.View([sample(tally=tally, would_sleep=1, would_wake={"exec": 2})])
    with scrape.Scrape("127.0.0.1:0", metrics.Exposition(lambda: view)) as server:
        url = f"http://127.0.0.1:{server.port}/metrics"
        plain = urllib.request.urlopen(url).read().decode()
        accept = {"Accept": "application/openmetrics-text; version=1.0.0"}
        modern = (
            urllib.request.urlopen(urllib.request.Request(url, headers=accept)).read().decode()
        )

    refused = {**WHO, "reason": "unsupported"}
    for families in (
        parser.text_string_to_metric_families(plain),
        openmetrics.text_string_to_metric_families(modern),
    ):
        samples = [s for family in families for s in family.samples]
        assert [s.value for s in samples if s.labels == refused] == [1.0]
        assert {s.name for s in samples} <= names()


@pytest.mark.parametrize("address", ["8080", "host:", "host:http", "::1:8080", ":70000"])
def test_what_is_no_address_is_told(address):
    """With the flag, the value and what to write."""
    with pytest.raises(errors.CheckpointerError, match="metrics-addr") as told:
        scrape.split(address)
    assert repr(address) in told.value.reason


def test_addresses_are_split():
    """The form of Go programs too, and IPv6."""
    assert scrape.split(":8080") == ("::", 8080)
    assert scrape.split("127.0.0.1:9") == ("127.0.0.1", 9)
    assert scrape.split("[::1]:9") == ("::1", 9)


def test_an_address_that_is_taken_is_told():
    """The daemon's caller decides what that means."""
    empty = metrics.Exposition(metrics.View)
    with scrape.Scrape("127.0.0.1:0", empty) as first, pytest.raises(errors.CheckpointerError):
        scrape.Scrape(f"127.0.0.1:{first.port}", empty)


def test_the_document_is_the_code():
    """docs/metrics.md is generated: `python3 -m checkpointer.metrics > docs/metrics.md`."""
    assert (ROOT / "docs/metrics.md").read_text() == metrics.document()


@pytest.mark.parametrize("name", ["alerts.yaml", "dashboard.json"])
def test_monitoring_names_only_metrics_that_exist(name):
    """An alert on a metric that is gone never fires."""
    text = (ROOT / "manifests/monitoring" / name).read_text()
    used = set(re.findall(r"\bzeropod_[a-z0-9_]+", text))

    assert used
    assert used <= names()


@pytest.mark.parametrize("name", ["alerts.yaml", "dashboard.json"])
def test_first_counts_are_seen(name):
    """Of a series that begins with 1 `increase` and `rate` are 0: there is nothing before it."""
    text = (ROOT / "manifests/monitoring" / name).read_text()
    late = {
        family.name + "_total"
        for family in metrics.families(metrics.View([sample()]))
        if family.type == "counter" and not family.samples
    }
    used = Counter(re.findall(r"\b(?:increase|rate)\((zeropod_\w+)", text))
    whole = Counter(re.findall(r"\bunless last_over_time\((zeropod_\w+)", text))

    assert "zeropod_wake_failures_total" in late & set(used)
    assert {one: used[one] for one in late & set(used)} == {
        one: whole[one] for one in late & set(used)
    }


def test_the_dashboard_is_json_with_a_query_in_every_panel():
    """Grafana imports it as it is."""
    board = json.loads((ROOT / "manifests/monitoring/dashboard.json").read_text())
    panels = [panel for panel in board["panels"] if panel["type"] != "row"]

    assert panels
    assert all(target["expr"] for panel in panels for target in panel["targets"])
