"""The dashboard and the alerts ask for metrics and labels that exist, and are what Grafana and
Prometheus take."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import cache
from itertools import combinations, islice
from typing import Any

import promql_parser as promql
import pytest
import yaml
from conftest import ROOT
from prometheus_client.parser import text_string_to_metric_families

from emulator.metrics import Metrics
from simulator import load_scenario
from simulator.live import LiveDeployment
from simulator.monitoring import FAMILIES

FOLDER = ROOT / "examples" / "monitoring"
DASHBOARD = json.loads((FOLDER / "grafana-dashboard.json").read_text(encoding="utf-8"))
PANELS = DASHBOARD["panels"]
ALERTS = [
    rule
    for group in yaml.safe_load((FOLDER / "alerts.yml").read_text(encoding="utf-8"))["groups"]
    for rule in group["rules"]
]
SCRAPED = {"up": {"job", "instance"}}
"""What Prometheus itself knows of a target; it puts the same labels on all that it scrapes."""
UNITS = {
    "currencyUSD", "joule", "none", "ops", "percentunit", "reqps", "s", "short", "watt",
}  # fmt: skip
"""Of Grafana's, those that the dashboard uses."""


@cache
def told() -> dict[str, dict[str, set[str]]]:
    """The metrics of a live deployment: by name, the values of each label."""
    live = LiveDeployment(load_scenario("mixed-pools-8b"))
    metrics = Metrics(live)
    for code in (200, 429, 500):
        metrics.responded(code)
    found: dict[str, dict[str, set[str]]] = {}
    for family in text_string_to_metric_families(metrics.text()[0].decode()):
        for sample in family.samples:
            values = found.setdefault(sample.name, {})
            for label, value in sample.labels.items():
                values.setdefault(label, set()).add(value)
    return found


def expressions() -> Iterator[tuple[str, str]]:
    """Where each PromQL expression stands, and it with Grafana's variables filled in."""
    for panel in PANELS:
        for target in panel.get("targets", []):
            text = target["expr"].replace("$__rate_interval", "1m")
            yield panel["title"], re.sub(r"\$(model|pool)\b", ".*", text)
    for rule in ALERTS:
        yield rule["alert"], rule["expr"]


EXPRESSIONS = list(expressions())


def parts(node: Any) -> Iterator[Any]:
    """A PromQL expression and all within it."""
    yield node
    match node:
        case promql.AggregateExpr():
            inner = [node.expr] + ([node.param] if node.param is not None else [])
        case promql.BinaryExpr():
            inner = [node.lhs, node.rhs]
        case promql.Call():
            inner = list(node.args)
        case promql.MatrixSelector():
            inner = [node.vector_selector]
        case promql.ParenExpr() | promql.UnaryExpr() | promql.SubqueryExpr():
            inner = [node.expr]
        case _:
            assert isinstance(
                node, promql.VectorSelector | promql.NumberLiteral | promql.StringLiteral
            )
            inner = []
    for each in inner:
        yield from parts(each)


def selectors(text: str) -> list[Any]:
    return [n for n in parts(promql.parse(text)) if isinstance(n, promql.VectorSelector)]


def labelling(node: Any) -> Iterator[Any]:
    """The selectors whose labels an expression has: of two sides those of the left one, to which
    the right one is matched."""
    if isinstance(node, promql.BinaryExpr):
        assert str(node.op) != "or"
        yield from labelling(node.lhs)
    elif isinstance(node, promql.VectorSelector):
        yield node
    else:
        for each in islice(parts(node), 1, None):
            if isinstance(each, promql.VectorSelector | promql.BinaryExpr):
                yield from labelling(each)
                return


@pytest.mark.parametrize(("where", "text"), EXPRESSIONS, ids=[where for where, _ in EXPRESSIONS])
def test_expressions_ask_for_metrics_and_labels_that_exist(where: str, text: str) -> None:
    found = selectors(text)
    assert found
    for selector in found:
        if selector.name in SCRAPED:
            continue
        assert selector.name in told(), selector.name
        labels = told()[selector.name]
        for matcher in selector.matchers.matchers:
            assert matcher.name in labels, (selector.name, matcher.name)
            if matcher.op == promql.MatchOp.Re:
                assert any(re.fullmatch(matcher.value, value) for value in labels[matcher.name])
            else:
                assert matcher.value in labels[matcher.name]
    for node in parts(promql.parse(text)):
        if isinstance(node, promql.AggregateExpr) and node.modifier is not None:
            for label in node.modifier.labels:
                for selector in labelling(node.expr):
                    known = SCRAPED.get(selector.name) or {*told()[selector.name], *SCRAPED["up"]}
                    assert label in known, (label, selector.name)


@pytest.mark.parametrize(("where", "text"), EXPRESSIONS, ids=[where for where, _ in EXPRESSIONS])
def test_counters_are_asked_for_rates_and_gauges_are_not(where: str, text: str) -> None:
    kinds = {}
    for family in FAMILIES.values():
        suffixes = {
            "counter": ["_total"],
            "gauge": [""],
            "histogram": ["_bucket", "_count", "_sum"],
        }
        for suffix in suffixes[family.kind]:
            kinds[family.name + suffix] = family.kind
    rated, quantiles = set(), 0
    for node in parts(promql.parse(text)):
        if isinstance(node, promql.Call) and node.func.name in ("rate", "increase"):
            (selector,) = selectors(str(node))
            rated.add(selector.name)
            assert kinds[selector.name] != "gauge"
        if isinstance(node, promql.Call) and node.func.name == "histogram_quantile":
            quantiles += 1
            share, summed = node.args
            assert 0 < share.val < 1
            assert isinstance(summed, promql.AggregateExpr)
            assert "le" in summed.modifier.labels
    for selector in selectors(text):
        if kinds.get(selector.name, "gauge") != "gauge":
            assert selector.name in rated
        assert selector.name.endswith("_bucket") <= (quantiles > 0 or "increase(" in text)


def test_the_check_finds_what_does_not_exist() -> None:
    check = test_expressions_ask_for_metrics_and_labels_that_exist
    for wrong in (
        "rate(vllm:ttft_seconds_bucket[1m])",
        'sum(servecast:replicas{status="up"})',
        'sum(servecast:replicas{state="upp"})',
        "sum by (replica) (vllm:num_requests_running)",
    ):
        with pytest.raises(AssertionError):
            check("here", wrong)


def test_everything_that_can_be_watched_is_on_the_dashboard() -> None:
    """But for what tells the same, or is not a series to look at."""
    asked = {selector.name for _, text in EXPRESSIONS for selector in selectors(text)}
    left_out = {
        family.name
        for family in FAMILIES.values()
        if not any(name.startswith(family.name) for name in asked)
    }
    assert left_out == {
        "servecast:busy_seconds", "servecast:devices", "servecast:replica_info",
        "vllm:cache_config_info", "vllm:prompt_tokens_by_source", "vllm:prompt_tokens_cached",
        "vllm:request_inference_time_seconds", "vllm:request_max_num_generation_tokens",
        "vllm:request_num_preemptions", "vllm:request_params_max_tokens", "vllm:request_params_n",
        "vllm:request_prefill_kv_computed_tokens", "vllm:spec_decode_num_accepted_tokens",
        "vllm:spec_decode_num_draft_tokens", "vllm:spec_decode_num_drafts",
    }  # fmt: skip


def test_the_dashboard_has_the_shape_that_grafana_imports() -> None:
    assert {"uid", "title", "panels", "templating", "time", "schemaVersion"} <= DASHBOARD.keys()
    assert DASHBOARD["schemaVersion"] >= 36  # Grafana 9 and later, without migrations of panels
    assert "id" not in DASHBOARD  # else an import would replace another dashboard
    variables = {each["name"]: each for each in DASHBOARD["templating"]["list"]}
    assert list(variables) == ["datasource", "model", "pool"]
    assert variables["datasource"]["type"] == "datasource"
    for name in ("model", "pool"):
        metric, label = re.fullmatch(
            r"label_values\((\S+), (\w+)\)", variables[name]["definition"]
        ).groups()  # type: ignore[union-attr]
        assert label in told()[metric]
    ids = [panel["id"] for panel in PANELS]
    assert len(set(ids)) == len(ids)
    titles = [panel["title"] for panel in PANELS]
    assert len(set(titles)) == len(titles)


def test_panels_lie_side_by_side() -> None:
    for panel in PANELS:
        place = panel["gridPos"]
        assert 0 <= place["x"] < place["x"] + place["w"] <= 24
        assert place["h"] >= 1
    for one, other in combinations((panel["gridPos"] for panel in PANELS), 2):
        apart = (
            one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
            or one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        )  # fmt: skip
        assert apart


@pytest.mark.parametrize(
    "panel", [p for p in PANELS if p["type"] != "row"], ids=lambda panel: panel["title"]
)
def test_every_panel_asks_the_chosen_datasource_and_has_a_unit(panel: dict[str, Any]) -> None:
    source = {"type": "prometheus", "uid": "${datasource}"}
    assert panel["type"] in ("timeseries", "stat", "heatmap")
    assert panel["datasource"] == source
    unit = (
        panel["options"]["yAxis"]
        if panel["type"] == "heatmap"
        else panel["fieldConfig"]["defaults"]
    )
    assert unit["unit"] in UNITS
    references = [target["refId"] for target in panel["targets"]]
    assert len(set(references)) == len(references)
    assert all(target["datasource"] == source for target in panel["targets"])


def test_alerts_have_the_shape_that_prometheus_takes() -> None:
    names = [rule["alert"] for rule in ALERTS]
    assert len(set(names)) == len(names)
    for rule in ALERTS:
        assert rule.keys() == {"alert", "expr", "for", "labels", "annotations"}
        assert re.fullmatch(r"\d+[smh]", rule["for"])
        assert rule["labels"]["severity"] in ("page", "warn")
        assert rule["annotations"].keys() == {"summary", "description"}
        # What the summary names is a label that is left after the sums.
        kept = {"instance"} if "up{" in rule["expr"] else set()
        for node in parts(promql.parse(rule["expr"])):
            if isinstance(node, promql.AggregateExpr) and node.modifier is not None:
                kept |= set(node.modifier.labels)
        for label in re.findall(r"\$labels\.(\w+)", rule["annotations"]["summary"]):
            assert label in kept


def test_every_alert_has_a_case_with_series_that_exist() -> None:
    """promtool, which runs the cases, is not at hand here."""
    document = yaml.safe_load((FOLDER / "alerts-test.yml").read_text(encoding="utf-8"))
    fires = set()
    for case in document["tests"]:
        for series in case["input_series"]:
            (selector,) = selectors(series["series"])
            known = SCRAPED.get(selector.name) or {*told()[selector.name], *SCRAPED["up"]}
            assert {matcher.name for matcher in selector.matchers.matchers} <= known
        fires |= {each["alertname"] for each in case["alert_rule_test"] if each["exp_alerts"]}
    assert fires == {rule["alert"] for rule in ALERTS}


def test_the_files_name_each_other() -> None:
    config = yaml.safe_load((FOLDER / "prometheus.yml").read_text(encoding="utf-8"))
    assert all((FOLDER / name).is_file() for name in config["rule_files"])
    (job,) = config["scrape_configs"]
    assert f'job="{job["job_name"]}"' in next(
        r["expr"] for r in ALERTS if r["alert"] == "ServerAway"
    )
    compose = yaml.safe_load((FOLDER / "docker-compose.yml").read_text(encoding="utf-8"))
    for service in compose["services"].values():
        assert re.fullmatch(r"[\w/]+:v?\d+\.\d+\.\d+", service["image"])
        for volume in service["volumes"]:
            assert (FOLDER / volume.split(":")[0]).exists()
    provider = yaml.safe_load(
        (FOLDER / "provisioning" / "dashboards" / "servecast.yml").read_text(encoding="utf-8")
    )["providers"][0]
    assert any(
        provider["options"]["path"] in volume
        for volume in compose["services"]["grafana"]["volumes"]
    )
