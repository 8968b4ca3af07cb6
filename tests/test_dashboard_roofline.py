"""The roofline page: the public function's figures, its controls, and mistakes in one sentence."""

from __future__ import annotations

import json

import pytest
from streamlit.testing.v1 import AppTest

import simulator
from dashboard.choice import Choice
from simulator import with_unit
from tests.dashboard_app import errors, finish, open_app


def figures(app: AppTest) -> dict[str, str]:
    return {metric.label: metric.value for metric in app.main.metric}


def charts(app: AppTest) -> list[dict]:
    return [json.loads(chart.proto.spec) for chart in app.get("plotly_chart")]


def box(app: AppTest, label: str):
    return next(each for each in app.main.number_input if each.label.startswith(label))


def test_the_page_shows_what_the_function_says() -> None:
    app = open_app("roofline")
    assert not errors(app)
    found = simulator.roofline(simulator.load_scenario("chat-8b-h100"))
    shown = figures(app)
    assert shown["Prefill step"] == with_unit(1e3 * found.prefill.seconds, "ms")
    assert shown["Decode step"] == with_unit(1e3 * found.decode.seconds, "ms")
    assert shown["Decode: bound by"] == found.decode.bound == "memory"
    assert shown["Products compute-bound"] == f"from {found.turning.products}"
    assert box(app, "Batch").placeholder == f"{found.batch:,}"
    assert "Shown" not in {each.label for each in app.selectbox}  # one part: nothing to choose

    roof, prefill, decode, sweep = charts(app)
    points = next(trace for trace in roof["data"] if trace["name"] == "Decode")
    operators = [op for op in found.decode.operators if op.intensity]
    assert points["x"] == pytest.approx([op.intensity for op in operators])
    assert points["y"] == pytest.approx([op.flops_per_s / 1e12 for op in operators])
    lines = {trace["name"] for trace in roof["data"]}
    assert {"bf16 peak", "products, bf16, fitted", "Prefill, no arithmetic"} <= lines
    for chart, step in ((prefill, found.prefill), (decode, found.decode)):
        total = sum(sum(trace["x"]) for trace in chart["data"])
        assert 98.0 < total <= 100.001  # but for operators too small for a bar
        assert step.operators[0].name in {name for trace in chart["data"] for name in trace["y"]}
    stacked = [trace for trace in sweep["data"] if trace.get("stackgroup")]
    heights = [sum(column) for column in zip(*(trace["y"] for trace in stacked), strict=True)]
    assert heights == pytest.approx([1e3 * s for s in found.sweep.seconds])
    marks = [note["text"] for note in sweep["layout"]["annotations"]]
    assert f"products compute-bound: {found.turning.products}" in marks

    # --- controls ---
    box(app, "Batch").set_value(64)
    finish(app.run())
    again = simulator.roofline(simulator.load_scenario("chat-8b-h100"), batch=64)
    assert figures(app)["Decode step"] == with_unit(1e3 * again.decode.seconds, "ms")
    box(app, "Batch").set_value(5000)
    finish(app.run())
    assert errors(app) == [
        "batch: 5,000 is more than the 1,024 that the engine allows; at most 1,024, or raise "
        "engine.max_num_seqs"
    ]
    box(app, "Batch").set_value(1024)
    finish(app.run())
    assert not errors(app)
    assert any("so a batch of 1,024 never comes about" in each.value for each in app.caption)


def test_stages_and_pools_are_chosen() -> None:
    app = open_app("roofline", scenario="pipeline-70b-l40s")
    choice = next(each for each in app.selectbox if each.label == "Shown")
    assert choice.options == [f"stage {n} of 4" for n in (1, 2, 3, 4)]
    choice.set_value("stage 4 of 4")
    finish(app.run())
    scenario = simulator.load_scenario("pipeline-70b-l40s")
    last = simulator.roofline(scenario, part="stage 4 of 4")
    assert figures(app)["Decode step"] == with_unit(1e3 * last.decode.seconds, "ms")
    # Another scenario has other parts: the first of them is shown.
    app.session_state["_choice"] = Choice("disaggregated-70b-h100")
    finish(app.run())
    assert not errors(app)
    assert "Decode step" not in figures(app)
    assert "Prefill step" in figures(app)


def test_a_wrong_scenario_is_one_sentence() -> None:
    app = open_app("roofline", scenario="chat-8b-h100", set=["parallelism.tp=3"])
    assert len(errors(app)) == 1
    assert "parallelism.tp" in errors(app)[0]
    assert not app.metric
    app = open_app("roofline", scenario="chat-8b-h100", set=["engine.max_num_seqs=none"])
    assert len(errors(app)) == 1
    assert not app.metric
