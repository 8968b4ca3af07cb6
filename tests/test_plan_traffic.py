"""Traffic made heavier, and what it asks."""

from __future__ import annotations

from typing import Any, get_args

import numpy as np
import pytest

from simulator.errors import UserError
from simulator.planner.traffic import offered, scaled
from simulator.results.window import window_of
from simulator.scenario import Scenario
from simulator.scenario.load import load_scenario
from simulator.scenario.measurement import Measurement
from simulator.scenario.workload import Arrivals, Workload
from simulator.simulation import simulate
from simulator.workload import build_requests

FIXED = {
    "kind": "independent",
    "input": {"kind": "fixed", "tokens": 200},
    "output": {"kind": "fixed", "tokens": 20},
}
ARRIVALS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "poisson": ({"rate_per_s": 2.0}, {"rate_per_s": 5.0}),
    "gamma": ({"rate_per_s": 2.0, "cv": 2.0}, {"rate_per_s": 5.0}),
    "constant": ({"rate_per_s": 2.0}, {"rate_per_s": 5.0}),
    "ramp": (
        {"start_per_s": 1.0, "end_per_s": 4.0, "over_s": 9.0},
        {"start_per_s": 2.5, "end_per_s": 10.0, "over_s": 9.0},
    ),
    "diurnal": ({"rate_per_s": 2.0}, {"rate_per_s": 5.0, "peak_to_mean": 1.5}),
    "rates": ({"intervals": [{"start_s": 0, "rate_per_s": 4}], "end_s": 60}, {"scale": 2.5}),
    "burst": ({}, {}),
    "closed_loop": ({"concurrency": 3}, {"concurrency": 8}),
}
"""Of every kind: its settings, and some of them at 2.5 times the traffic."""


def of_kind(kind: str, arrivals: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    arrivals = arrivals or {"kind": "poisson", "rate_per_s": 2.0}
    turn = {"kind": "fixed", "tokens": 20}
    match kind:
        case "synthetic":
            asked = {"requests": 40, "arrivals": arrivals, "lengths": FIXED}
        case "trace":
            asked = {"file": "azure-llm-2023-conv", "slice": {"requests": 40}}
        case "sessions":
            asked = {
                "requests": 40, "arrivals": arrivals, "turns": {"kind": "fixed", "tokens": 3},
                "user_tokens": turn, "output_tokens": turn,
            }  # fmt: skip
        case "batch":
            asked = {"requests": 41, "lengths": FIXED, "max_in_flight": 4}
        case "queue":
            asked = {
                "requests": 40, "arrivals": arrivals, "lengths": FIXED, "max_in_flight": 4,
            }  # fmt: skip
        case "mix":
            parts = [{"name": name, "workload": of_kind(name)} for name in ("synthetic", "batch")]
            asked = {"classes": parts}
        case _:
            raise AssertionError(f"this test knows no traffic of the kind {kind}")
    return {"kind": kind, **asked, **more}


def scenario(workload: dict[str, Any], **more: Any) -> Scenario:
    return load_scenario(
        {"model": "llama-3.1-8b", "hardware": "l40s", "workload": workload, **more}
    )


def kinds(union: Any) -> list[str]:
    return [each.model_fields["kind"].default for each in get_args(get_args(union)[0])]


@pytest.mark.parametrize("kind", kinds(Arrivals))
def test_every_kind_of_arrivals_is_scaled(kind: str) -> None:
    settings, expected = ARRIVALS[kind]
    workload = scenario(of_kind("synthetic", {"kind": kind, **settings})).workload
    heavier = scaled(workload, 2.5)
    for key, value in expected.items():
        assert getattr(heavier.arrivals, key) == value
    assert heavier.requests == (100 if kind == "burst" else 40)
    assert type(heavier.arrivals) is type(workload.arrivals)


@pytest.mark.parametrize("kind", kinds(Workload))
def test_every_kind_of_traffic_is_scaled(kind: str) -> None:
    workload = scenario(of_kind(kind)).workload
    heavier = scaled(workload, 2.0)
    assert heavier != workload
    Scenario.model_validate({**scenario(of_kind(kind)).model_dump(), "workload": heavier})
    before, after = (build_requests(each, np.random.default_rng(0)) for each in (workload, heavier))
    if kind == "batch":
        assert len(after) == 2 * len(before)
    elif kind == "mix":
        assert heavier.classes[1].workload.requests == 2 * workload.classes[1].workload.requests
        assert heavier.classes[0].workload.arrivals.rate_per_s == 4.0
    else:
        assert len(after) == len(before)
        first = before.parent < 0
        half = before.arrival_s[first] / 2
        np.testing.assert_allclose(after.arrival_s[after.parent < 0], half, rtol=1e-12)


def test_a_duration_stays_and_brings_more_requests() -> None:
    workload = scenario(of_kind("synthetic", requests=None, duration_s=100.0)).workload
    heavier = scaled(workload, 3.0)
    assert heavier.duration_s == 100.0
    counts = [len(build_requests(w, np.random.default_rng(0))) for w in (workload, heavier)]
    assert counts[1] == pytest.approx(3 * counts[0], rel=0.2)


def test_a_count_that_comes_out_whole_is_not_rounded_up() -> None:
    workload = scenario(of_kind("batch", requests=30)).workload
    assert scaled(workload, 1.1).requests == 33
    assert scaled(workload, 1.12).requests == 34


def test_traffic_scaled_by_one_is_the_same() -> None:
    workload = scenario(of_kind("mix")).workload
    assert scaled(workload, 1.0) is workload


@pytest.mark.parametrize("factor", [0.0, -1.0, float("nan"), float("inf")])
def test_no_traffic_is_refused(factor: float) -> None:
    with pytest.raises(UserError, match="times as heavy"):
        scaled(scenario(of_kind("batch")).workload, factor)


# --- what is asked -------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["synthetic", "trace", "batch", "queue"])
@pytest.mark.parametrize("warmup", [0.0, 0.05, 0.3])
def test_what_counts_is_what_the_run_counts(kind: str, warmup: float) -> None:
    asked = scenario(of_kind(kind), measurement={"warmup_fraction": warmup})
    result = simulate(asked, intervals=False)
    traffic = offered(result.record.requests, asked.measurement)
    window = window_of(result.record, asked.measurement)
    assert traffic.counted is not None
    np.testing.assert_array_equal(traffic.counted, window.counted)
    assert traffic.start_s == window.start_s
    if not window.drain_counts:
        assert traffic.last_s == window.end_s


@pytest.mark.parametrize("kind", ["sessions", "closed"])
def test_requests_that_wait_for_others_count_at_least_so_often(kind: str) -> None:
    closed = of_kind("synthetic", {"kind": "closed_loop", "concurrency": 4})
    asked = scenario(closed if kind == "closed" else of_kind(kind))
    result = simulate(asked, intervals=False)
    traffic = offered(result.record.requests, asked.measurement)
    assert traffic.counted is None
    assert not traffic.timed
    counted = window_of(result.record, asked.measurement).requests
    assert 0 < traffic.least_counted <= counted
    assert traffic.closed == (kind == "closed")


def test_tokens_and_rates_are_counted() -> None:
    asked = scenario(of_kind("synthetic", {"kind": "constant", "rate_per_s": 4.0}))
    requests = build_requests(asked.workload, np.random.default_rng(0))
    traffic = offered(requests, Measurement(warmup_fraction=0.0))
    assert (traffic.count, traffic.total_input_tokens, traffic.total_output_tokens) == (
        40,
        8000,
        800,
    )
    assert traffic.window_s == pytest.approx(39 / 4)
    assert traffic.rate_per_s == pytest.approx(40 / (39 / 4))
    assert traffic.quantiles["input_tokens"] == dict.fromkeys(
        ("mean", "p50", "p90", "p95", "p99"), 200.0
    )


def test_several_answers_are_one_request() -> None:
    asked = scenario(of_kind("synthetic", samples={"n": 3}))
    traffic = offered(build_requests(asked.workload, np.random.default_rng(0)), Measurement())
    assert (traffic.count, len(traffic.requests)) == (40, 120)
    assert traffic.total_input_tokens == 40 * 200
    assert traffic.total_output_tokens == 120 * 20
