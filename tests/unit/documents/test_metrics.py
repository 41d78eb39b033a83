"""Metrics that documents, alerts and the dashboard name are those that the daemon has (docs/metrics.md is made from them)."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[3]

ROW = re.compile(r"^\| `(zeropod_\w+)` \| \w+ \| ([^|]*) \|", re.MULTILINE)
METRICS = {
    name: set(labels.replace(" ", "").split(","))
    for name, labels in ROW.findall((ROOT / "docs/metrics.md").read_text(encoding="utf-8"))
}

USE = re.compile(r"(?<![\w.-])(zeropod_[a-z_]+[a-z])(?:\{([^}]*)\})?")

FILES = sorted(
    path.relative_to(ROOT).as_posix()
    for pattern in ("*.md", "docs/**/*.md", "manifests/**/*.yaml", "manifests/**/*.json")
    for path in ROOT.glob(pattern)
)

#: Of the original, named where it is compared with.
FOREIGN = {"zeropod_dry_run_restores_total", "zeropod_maps"}


@pytest.mark.parametrize("document", FILES)
def test_metrics_and_their_labels_exist(document: str) -> None:
    """A name, and behind it in braces its labels."""
    text = (ROOT / document).read_text(encoding="utf-8").replace('\\"', '"')
    wrong = []
    for found, selector in USE.findall(text):
        name = re.sub(r"_(bucket|sum|count)$", "", found) if found not in METRICS else found
        if found in FOREIGN:
            continue
        if name not in METRICS:
            wrong.append(found)
        used = set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", selector or ""))
        wrong += [f"{found}{{{label}}}" for label in used - METRICS.get(name, set()) - SCRAPED]
    assert wrong == []


def expressions() -> list[str]:
    """Of the alerts and of the dashboard."""
    folder = ROOT / "manifests/monitoring"
    board = json.loads((folder / "dashboard.json").read_text(encoding="utf-8"))
    asked = [target["expr"] for panel in board["panels"] for target in panel.get("targets", [])]
    rules = yaml.safe_load((folder / "alerts.yaml").read_text(encoding="utf-8"))["spec"]["groups"]
    return [*asked, *(rule["expr"] for group in rules for rule in group["rules"])]


@pytest.mark.parametrize("expression", expressions())
def test_what_is_grouped_by_is_a_label(expression: str) -> None:
    """Of all metrics of an expression that has one."""
    names = {re.sub("_(bucket|sum|count)$", "", name) for name, _ in USE.findall(expression)}
    groups = re.findall(r"\b(?:by|on|ignoring) \(([^)]*)\)", expression)
    labels = {label.strip() for group in groups for label in group.split(",")}
    assert labels - SCRAPED <= set.union(*(METRICS[name] for name in names))


#: Labels that Prometheus adds, and those of a histogram.
SCRAPED = {"instance", "job", "node", "le", "cluster"}


def test_there_are_metrics() -> None:
    """The patterns above still find them."""
    assert len(METRICS) > 30
    assert METRICS["zeropod_unmanaged_containers"] == {"reason"}
