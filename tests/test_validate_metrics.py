"""Errors against hand-made numbers, tables and pages."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

import pytest

from calibration.validate import METRICS, Comparison, Errors, Point, Skipped, document, errors
from calibration.validate.metrics import by, coverage_pct, repeated, worst
from calibration.validate.page import page
from calibration.validate.prediction import dominant
from calibration.validate.runner import Validation
from calibration.validate.tables import COLUMNS, csv_text, distributions, markdown, worst_rows


def prediction(
    ttft: float, tpot: float, e2e: float = 1000.0, rate: float = 100.0
) -> dict[str, Any]:
    figures = {
        key: {"mean": value, "p50": value / 2, "p90": 2 * value, "p95": 2 * value, "p99": 3 * value}
        for key, value in zip(
            ("ttft_ms", "tpot_ms", "e2e_ms", "itl_ms"), (ttft, tpot, e2e, tpot), strict=True
        )
    }
    phase = {"steps": 10, "step_ms_mean": 5.0, "share_of_busy_time": 0.5}
    return {
        **figures,
        "intervals": {},
        "queueing_ms_mean": 1.0,
        "output_tokens_per_s": rate,
        "energy_j_per_output_token": 1000.0 / rate,
        "power_w": 1000.0,
        "avg_batch_size": 8.0,
        "load": [{"share": 0.9, "compute": 0.2, "memory": 0.4, "attention": 0.1, "widening": 0.0}],
        "requests": 80,
        "kv_tokens": 1000,
        "batch_size_mean": 7.5,
        "preemptions": 0,
        "steps_with_prompts": {**phase, "operators": {"up_proj": 0.6, "host": 0.4}},
        "decode_only_steps": {**phase, "operators": {"host": 0.7, "up_proj": 0.3}},
    }


def comparison(name: str, measured: dict[str, Any], predicted: dict[str, Any], **more: Any) -> Comparison:  # fmt: skip
    fields = {
        "id": name, "model": "acme/m-1", "system": "h100", "engine": "vllm", "isl": 100.0,
        "osl": 11.0, "concurrency": 8, "measured": measured,
    }  # fmt: skip
    point = Point.model_validate(fields | more)
    return Comparison(point, predicted, "validation", False)


FOUR = [
    comparison("a", {"ttft_ms": {"mean": 100.0}, "tpot_ms": {"mean": 10.0}}, prediction(110, 8)),
    comparison("b", {"ttft_ms": {"mean": 100.0}, "tpot_ms": {"mean": 10.0}}, prediction(80, 10)),
    comparison("c", {"ttft_ms": {"mean": 200.0}}, prediction(320, 9), concurrency=64, tp=2),
    comparison("d", {"output_tokens_per_s": 50.0}, prediction(1, 1), system="b200"),
]


def test_errors_of_hand_made_pairs() -> None:
    # Ratios 1.1, 0.8, 1.6: errors 10, 20 and 60 per cent.
    found = errors(FOUR, "ttft_ms")
    assert found.n == 3
    assert found.median_ape_pct == pytest.approx(20.0)
    assert found.mean_ape_pct == pytest.approx(30.0)
    assert found.p90_ape_pct == pytest.approx(52.0)  # linear between 20 and 60
    assert found.bias_ratio == pytest.approx(1.1)
    assert errors(FOUR, "tpot_ms") == Errors(2, *(pytest.approx(x) for x in (10, 10, 18, 0.9)))
    assert errors(FOUR, "output_tokens_per_s").median_ape_pct == pytest.approx(100.0)
    assert errors([], "ttft_ms") == Errors(0)


def test_e2e_is_made_of_both_where_it_was_not_measured() -> None:
    assert FOUR[0].pair("e2e_ms") == (100.0 + 10 * 10.0, 110.0 + 10 * 8.0)
    assert FOUR[2].pair("e2e_ms") is None
    measured = {"ttft_ms": {"mean": 100.0}, "tpot_ms": {"mean": 10.0}, "e2e_ms": {"mean": 900.0}}
    assert comparison("e", measured, prediction(1, 1, e2e=990.0)).pair("e2e_ms") == (900.0, 990.0)


def test_the_rows_statistic_is_compared() -> None:
    row = comparison("m", {"ttft_ms": {"p50": 60.0}}, prediction(100, 1), statistic="p50")
    assert row.pair("ttft_ms") == (60.0, 50.0)
    assert row.error_pct("ttft_ms") == pytest.approx(-100.0 / 6)
    assert row.pair("ttft_ms", "mean") is None


def test_the_document() -> None:
    found = document(FOUR, [Skipped("x", "why")])
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert list(found) == ["metrics", "skipped"]
    assert tuple(found["metrics"]) == METRICS
    for metric in METRICS:
        assert list(found["metrics"][metric]) == [
            "n", "median_ape_pct", "mean_ape_pct", "p90_ape_pct", "bias_ratio",
            "interval_coverage_pct",
        ]  # fmt: skip
    assert found["skipped"] == [{"id": "x", "reason": "why"}]
    nothing = Errors(0).as_dict() | {"interval_coverage_pct": None}
    assert document([], [])["metrics"]["tpot_ms"] == nothing


def test_a_measurement_lies_in_its_interval_or_not() -> None:
    bounds = {"latency.tpot_ms.mean": [0.8, 1.25]}
    inside = [
        comparison("m", {"tpot_ms": {"mean": value}}, prediction(100, 1) | {"intervals": bounds})
        for value in (0.79, 0.81, 1.24, 1.26)
    ]
    assert [c.inside("tpot_ms") for c in inside] == [False, True, True, False]
    assert [c.inside("ttft_ms") for c in inside] == [None] * 4
    assert coverage_pct(inside, "tpot_ms") == 50.0
    assert coverage_pct(inside, "e2e_ms") is None


def test_breakdowns() -> None:
    assert [(name, len(members)) for name, members in by(FOUR, "load")] == [
        ("1 to 8 users", 3), ("33 to 128 users", 1),
    ]  # fmt: skip
    assert [name for name, _ in by(FOUR, "GPU")] == ["b200", "h100"]
    assert [name for name, _ in by(FOUR, "parallelism")] == ["TP 1", "TP 2"]
    assert [name for name, _ in by(FOUR, "split")] == ["validation, group never seen"]


def test_the_worst_first_by_factor_with_their_operator() -> None:
    assert [c.point.id for c in worst(FOUR, "ttft_ms", 2)] == ["c", "b"]
    first = worst_rows(FOUR, "ttft_ms")[0]
    assert (first.measured, first.predicted, first.operator) == (200.0, 320.0, "up_proj")
    assert dominant(prediction(100, 1), "tpot_ms") == ("host", pytest.approx(0.55))
    waiting = prediction(100, 1) | {"queueing_ms_mean": 80.0}
    assert dominant(waiting, "ttft_ms") == ("queueing", 0.8)


def test_rows_that_repeat_another() -> None:
    again = FOUR[0].point.model_copy(update={"id": "z", "version": "9"})
    assert repeated([c.point for c in FOUR] + [again]) == 2  # b gives the figures of a, too
    assert repeated([c.point for c in FOUR[1:]]) == 0


def test_csv_has_every_point() -> None:
    rows = list(csv.DictReader(io.StringIO(csv_text(FOUR))))
    assert [row["id"] for row in rows] == ["a", "b", "c", "d"]
    assert tuple(rows[0]) == COLUMNS
    assert float(rows[0]["error_pct_ttft_ms"]) == pytest.approx(10.0)
    assert rows[2]["measured_tpot_ms"] == rows[2]["predicted_tpot_ms"] == ""
    assert (rows[0]["requests"], rows[0]["tpot_operator"]) == ("80", "host")


def test_tables_of_the_documentation() -> None:
    text = markdown(FOUR, [Skipped("x", "a | b"), Skipped("y", "a | b")])
    assert "| TTFT | 3 | 20.0% | 30.0% | 52.0% | 1.10 |" in text
    assert "| a \\| b | 2 |" in text
    spread = comparison("s", {"ttft_ms": {"mean": 100.0, "p99": 600.0}}, prediction(110, 1))
    assert distributions([spread]) == [
        ("s TTFT mean", "100.0", "110.0", "+10.0%"), ("s TTFT p99", "600.0", "330.0", "-45.0%"),
    ]  # fmt: skip


def test_the_page_is_whole_and_escapes() -> None:
    hostile = comparison("<b>", {"ttft_ms": {"mean": 100.0}}, prediction(110, 8), model="</script>")
    text = page(Validation("a & b", (*FOUR, hostile), (Skipped("x", "<i>"),), 5))
    assert "a &amp; b" in text
    assert "</script>" not in text.partition('id="figures">')[2].partition("</script>")[0]
    figures = json.loads(text.partition('id="figures">')[2].partition("</script>")[0])
    assert {"scatter-ttft_ms", "load-ttft_ms", "scatter-output_tokens_per_s"} <= set(figures)
    points = [p for trace in figures["scatter-ttft_ms"]["traces"] for p in zip(trace["x"], trace["y"], strict=True)]  # fmt: skip
    assert sorted(points) == [(100, 80), (100, 110), (100, 110), (200, 320)]
    assert "<i>" not in text.partition("<h2>Left out</h2>")[2].partition("</section>")[0]
    assert "http" not in text.partition("<main>")[2].partition("</main>")[0]
    assert "Plotly" in text
    assert page(Validation("none", (), (), 0))
