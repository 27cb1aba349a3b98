"""The dashboard asks for metrics that there are."""

from __future__ import annotations

import json
import re
from pathlib import Path

from serve.metrics.metric_families import READ, MetricFamilies

DASHBOARD = Path(__file__).parents[3] / "templates" / "deploy" / "grafana-dashboard.json"
_PARTS = {"histogram": ("_bucket", "_sum", "_count"), "counter": ("_total",), "gauge": ("",)}


def known_names():
    counted = MetricFamilies().collect(())
    return {metric.name + part for metric in counted for part in _PARTS[metric.type]} | set(READ)


def asked_names(text):
    return set(re.findall(r"\benvserve_\w+", text))


def test_every_name_in_it_exists():
    dashboard = json.loads(DASHBOARD.read_text())
    asked = set()
    for panel in dashboard["panels"]:
        for target in panel.get("targets", []):
            names = asked_names(target["expr"])
            assert names, panel["title"]
            asked |= names
    asked |= asked_names(json.dumps([dashboard["templating"], dashboard["annotations"]]))
    assert asked <= known_names(), asked - known_names()


def test_every_metric_is_shown_or_said_not_to_be():
    unseen = {"envserve_env_info"}
    families = {name for name in known_names() if not name.endswith(("_sum", "_count", "_bucket"))}
    assert families - asked_names(DASHBOARD.read_text()) <= unseen


def test_the_reference_names_every_metric_and_no_other():
    reference = (Path(__file__).parents[3] / "docs" / "reference" / "metrics.md").read_text()
    families = {metric.name + ("_total" if metric.type == "counter" else "") for metric in MetricFamilies().collect(())}
    assert asked_names(reference) == families | set(READ)


def test_no_two_panels_lie_on_each_other():
    taken = set()
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        place = panel["gridPos"]
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not cells & taken, panel["title"]
        assert place["x"] + place["w"] <= 24
        taken |= cells
