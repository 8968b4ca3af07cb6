"""Intervals: their limit cases, their coverage by chance, and that queues widen them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from simulator import Scenario, load_scenario, simulate
from simulator.costs.protocol import Chunk
from simulator.costs.scaled import Scaled
from simulator.uncertainty import LEVEL, _of_order
from simulator.workload import build_requests
from tests.metronome import Metronome


def scenario(**changes: Any) -> Scenario:
    """Sixty requests that follow one another, nothing drawn."""
    base: dict[str, Any] = {
        "model": "llama-3.1-8b",
        "hardware": {"profile": "h100-sxm"},
        "engine": {"profile": "tgi", "policy": {"kind": "continuous"}},
        "workload": {
            "kind": "synthetic",
            "requests": 60,
            "arrivals": {"kind": "closed_loop", "concurrency": 1},
            "lengths": {
                "kind": "independent",
                "input": {"kind": "fixed", "tokens": 256},
                "output": {"kind": "fixed", "tokens": 32},
            },
        },
    }
    return Scenario.model_validate(base | changes)


def intervals(made: Scenario) -> tuple[dict[str, Any], dict[str, Any]]:
    summary = simulate(made).summary()
    return summary, summary["uncertainty"]


def test_scaled_steps_take_longer_by_the_factor() -> None:
    cost = Metronome(prompt_s=2.0, decode_s=1.0, slope_s=0.5)
    scaled = Scaled(cost, prompts=3.0, decode=2.0)
    first, slope, steps = cost.decode(2, 10, 0, 0)
    assert scaled.decode(2, 10, 0, 0) == (2.0 * first, 2.0 * slope, steps)
    assert scaled.step(1, 5, 0, [Chunk(4, 0)], 2) == 3.0 * cost.step(1, 5, 0, [Chunk(4, 0)], 2)


def test_without_queues_and_chance_an_interval_is_the_spread_of_the_steps() -> None:
    summary, section = intervals(scenario())
    assert section["level"] == LEVEL == 0.8
    low, high = section["step_time_factor"]["decode_only"]
    assert low < 1.0 < high
    value = summary["latency"]["tpot_ms"]["p50"]
    found = section["intervals"]["latency.tpot_ms.p50"]
    assert found == pytest.approx([value * low, value * high], rel=1e-6)
    low, high = section["step_time_factor"]["with_prompts"]
    value = summary["latency"]["ttft_ms"]["p50"]
    found = section["intervals"]["latency.ttft_ms.p50"]
    assert found == pytest.approx([value * low, value * high], rel=1e-6)
    rate = summary["throughput"]["output_tokens_per_s"]
    found = section["intervals"]["throughput.output_tokens_per_s"]
    assert found[0] < rate < found[1]


def test_every_interval_holds_its_figure() -> None:
    poisson = {"kind": "poisson", "rate_per_s": 12.0}
    made = scenario(
        workload={
            "kind": "synthetic",
            "requests": 400,
            "arrivals": poisson,
            "lengths": {"kind": "from_trace", "file": "sharegpt-lengths"},
        },
        cost={"usd_per_device_hour": 3.0},
    )
    summary, section = intervals(made)
    assert len(section["intervals"]) == 17
    for path, (low, high) in section["intervals"].items():
        value: Any = summary
        for key in path.split("."):
            value = value[key]
        assert 0.0 < low <= value <= high, path
    assert section == intervals(made)[1]


def test_near_saturation_a_small_spread_of_steps_is_a_large_one_of_queues() -> None:
    """At 90% of what one sequence at a time can do, TTFT is waiting."""
    alone = intervals(scenario())[0]["latency"]["e2e_ms"]["mean"] / 1e3
    made = scenario(
        engine={"profile": "tgi", "policy": {"kind": "continuous"}, "max_num_seqs": 1},
        workload={
            "kind": "synthetic",
            "requests": 1500,
            "arrivals": {"kind": "poisson", "rate_per_s": 0.9 / alone},
            "lengths": {
                "kind": "independent",
                "input": {"kind": "fixed", "tokens": 256},
                "output": {"kind": "fixed", "tokens": 32},
            },
        },
    )
    section = intervals(made)[1]
    factor = section["step_time_factor"]["with_prompts"][1]
    low, high = section["intervals"]["latency.ttft_ms.mean"]
    assert high / low > 4.0 * factor**2


@pytest.mark.parametrize("share", [0.5, 0.9])
def test_chance_covers_what_it_promises(share: float) -> None:
    """Of 2,000 samples of 200 exponential draws, four fifths hold the true quantile."""
    rng = np.random.default_rng(11)
    truth = -math.log(1.0 - share)
    inside = 0
    for _ in range(2000):
        ordered = np.sort(rng.exponential(size=200))
        middle = float(np.percentile(ordered, 100 * share))
        low, high = _of_order(ordered, share, 1.2816)
        inside += middle * math.exp(low) <= truth <= middle * math.exp(high)
    assert 0.77 < inside / 2000 < 0.86


def test_traffic_of_sessions_and_texts_can_be_cut_short() -> None:
    made = Scenario.model_validate(
        {
            "model": "llama-3.1-8b",
            "hardware": {"profile": "h100-sxm"},
            "workload": {
                "kind": "sessions",
                "requests": 90,
                "arrivals": {"kind": "poisson", "rate_per_s": 2.0},
                "turns": {"kind": "uniform", "low": 2, "high": 8},
                "user_tokens": {"kind": "lognormal", "mean": 150, "cv": 1.2, "high": 2000},
                "output_tokens": {"kind": "lognormal", "mean": 250, "cv": 0.8, "high": 1500},
                "system_prompt": {"tokens": 1500, "groups": 3},
            },
        }
    )  # fmt: skip
    whole = build_requests(made.workload, np.random.default_rng(0), None)
    for n in (1, 7, len(whole) - 1):
        part = whole.first(n)
        part.check_integrity()
        assert len(part) == n
    assert whole.first(len(whole)) is whole


def test_who_does_not_want_them_gets_none() -> None:
    assert simulate(scenario(), intervals=False).summary()["uncertainty"] is None


def test_a_mix_with_a_closed_loop_runs_whole() -> None:
    lengths = {
        "kind": "independent",
        "input": {"kind": "fixed", "tokens": 64},
        "output": {"kind": "fixed", "tokens": 2},
    }
    closed = {"kind": "closed_loop", "concurrency": 4}
    opened = {"kind": "poisson", "rate_per_s": 50.0}
    made = scenario(
        workload={
            "kind": "mix",
            "classes": [
                {
                    "name": name,
                    "workload": {
                        "kind": "synthetic",
                        "requests": requests,
                        "arrivals": arrivals,
                        "lengths": lengths,
                    },
                }
                for name, requests, arrivals in (("users", 2100, closed), ("jobs", 50, opened))
            ],
        }
    )
    assert intervals(made)[1]["requests"] == 2150


def test_time_outs_that_differ_take_the_intervals_of_latencies() -> None:
    section = intervals(scenario(deployment={"timeout_s": 0.32}))[1]
    assert not [path for path in section["intervals"] if path.startswith("latency")]


def test_attainment_without_a_miss_is_not_certain() -> None:
    overrides = ["workload.slice.requests=300", "slo={ttft_ms: 60000}"]
    summary = simulate(load_scenario("chat-8b-h100", overrides)).summary()
    assert summary["slo"]["goodput_share"] == 1.0
    low, high = summary["uncertainty"]["intervals"]["slo.goodput_share"]
    counted = summary["requests"]["counted"]
    assert 1.0 - 2.0 / counted < low < 1.0 - 1.5 / counted
    assert high == 1.0
