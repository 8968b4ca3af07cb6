"""The page Fleet: the course of a run, knobs of scaling, a fixed fleet beside it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

import simulator
from dashboard import look
from tests.dashboard_app import errors, finish, open_app

SCALED = ["workload.requests=800", "deployment.autoscaling.initial=2"]


@pytest.fixture(scope="module")
def app() -> AppTest:
    return open_app("fleet", scenario="autoscaling-day-8b-l4", set=SCALED)


def tiles(app: AppTest) -> dict[str, str]:
    return {tile.label: tile.value for tile in app.metric}


def sets(app: AppTest) -> dict[str, Any]:
    said = app.query_params["set"]
    pairs = [item.partition("=") for item in ([said] if isinstance(said, str) else said)]
    return {path: value for path, _, value in pairs}


def test_figures_are_those_of_the_run_and_of_a_fixed_fleet(app: AppTest) -> None:
    assert not errors(app)

    def summary(*more: str) -> dict[str, Any]:
        scenario = simulator.load_scenario("autoscaling-day-8b-l4", [SCALED[0], *more])
        return simulator.simulate(scenario, intervals=False).summary()

    scaled = summary(SCALED[1])
    fixed = summary(
        "deployment.autoscaling=null", "deployment.cold_start={}", "deployment.replicas=6"
    )
    shown = tiles(app)
    for label, key in (
        ("SLO met", "slo.goodput_share"),
        ("TTFT p99", "latency.ttft_ms.p99"),
        ("Cost of the run", "cost.whole_run_usd"),
        ("Replicas held, mean", "fleet.replicas_mean"),
    ):
        assert shown[label] == look.told(scaled, key)
    (table,) = app.dataframe
    rows = {row[""]: row for row in table.value.to_dict("records")}
    assert rows["Cost of the run"]["autoscaled"] == look.told(scaled, "cost.whole_run_usd")
    assert rows["Cost of the run"]["fixed, 6 replicas"] == look.told(fixed, "cost.whole_run_usd")
    assert rows["TTFT p99"]["fixed, 6 replicas"] == look.told(fixed, "latency.ttft_ms.p99")
    assert scaled["cost"]["whole_run_usd"] < fixed["cost"]["whole_run_usd"]


def test_knobs_set_values_of_the_scenario(app: AppTest) -> None:
    app.number_input(key="fleet deployment.autoscaling.max").set_value(4).run()
    finish(app)
    assert sets(app)["deployment.autoscaling.max"] == "4"
    assert "fixed, 4 replicas" in app.dataframe[0].value.columns
    app.toggle(key="fleet deployment.failures").set_value(True).run()
    finish(app)
    assert json.loads(sets(app)["deployment.failures"]) == {"mtbf_h": 24, "repair_s": 600}
    assert app.number_input(key="fleet deployment.failures.mtbf_h").value == 24
    app.toggle(key="fleet deployment.failures").set_value(False).run()
    app.selectbox(key="fleet policy").set_value("utilization").run()
    finish(app)
    assert not errors(app)
    assert json.loads(sets(app)["deployment.autoscaling"]) == {
        "kind": "utilization", "target": 0.7, "min": 1, "max": 4,
    }  # fmt: skip
    app.selectbox(key="fleet policy").set_value("fixed").run()
    finish(app)
    assert not errors(app)
    assert sets(app)["deployment.replicas"] == "4"
    assert tiles(app)["SLO met"] == "100.0%"


def test_a_fixed_deployment_is_offered_autoscaling() -> None:
    app = open_app("fleet", set=["workload.slice.duration_s=60"])
    assert not errors(app)
    assert "Starts" not in tiles(app)
    next(button for button in app.button if button.label == "Try autoscaling").click().run()
    finish(app)
    assert not errors(app)
    scaling = json.loads(sets(app)["deployment.autoscaling"])
    assert (scaling["kind"], scaling["min"], scaling["max"]) == ("concurrency", 1, 2)
    assert json.loads(sets(app)["deployment.cold_start"])["provisioning_s"] == 90
    assert "Starts" in tiles(app)


def test_a_wrong_scenario_is_one_sentence() -> None:
    app = open_app("fleet", scenario="autoscaling-day-8b-l4", set=["deployment.autoscaling.min=9"])
    assert any("min (9) is above max (6)" in sentence for sentence in errors(app))
    assert not app.dataframe


def test_crashes_at_given_times_are_told() -> None:
    app = open_app("fleet", scenario="failover-8b-h100", set="workload.requests=300")
    (told,) = [each.value for each in app.caption if "deployment.failures.outages" in each.value]
    assert told.endswith("replica 0 at 5 min 0 s for 5 min 0 s")
    # Tiles are of what can happen in this deployment.
    assert "Crashes" in tiles(app)
    assert "Interruptions" not in tiles(app)
